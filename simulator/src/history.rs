//! A seed's history from its plan to its verdict, and the shortest one that still fails.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::Serialize;

use crate::bug::Bug;
use crate::plan::Plan;
use crate::trace::Trace;
use crate::world::World;

/// Most runs that shrinking takes.
const SHRINK_RUNS_MAX: usize = 400;

/// What came of a history.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub seed: u64,
    /// Of all that happened, in order.
    pub trace_hash: u64,
    pub events: u64,
    pub steps: usize,
    /// Messages read by consumers and judged.
    pub reads: u64,
    /// Recoveries judged.
    pub recoveries: u64,
    /// What was wrong, if anything.
    pub failure: Option<String>,
}

/// Runs the history of a seed.
pub fn run_seed(seed: u64, bug: Option<Bug>) -> Verdict {
    run(&Plan::draw(seed), bug, &mut Trace::new(false))
}

/// Runs the history of a plan; `trace` has it afterwards, also when something panicked.
pub fn run(plan: &Plan, bug: Option<Bug>, trace: &mut Trace) -> Verdict {
    choose_mistake(bug);
    let (mut reads, mut recoveries) = (0, 0);
    let result = catching_panics(|| {
        let mut world = World::new(plan, bug, trace);
        let result = world
            .run()
            .and_then(|()| world.read_everything_after_a_restart())
            .and_then(|()| crate::corruption::tamper_and_judge(&mut world));
        (reads, recoveries) = (world.oracle.reads(), world.oracle.recoveries());
        result
    });
    choose_mistake(None);
    Verdict {
        seed: plan.seed,
        trace_hash: trace.hash(),
        events: trace.events(),
        steps: plan.steps.len(),
        reads,
        recoveries,
        failure: result.err(),
    }
}

fn choose_mistake(bug: Option<Bug>) {
    shards::deliberate::choose(bug.and_then(Bug::mistake));
}

thread_local! {
    static EXPECTS_PANICS: Cell<bool> = const { Cell::new(false) };
}

/// The result of `work`; an error when it panics, as the engine does when one of its assertions fails. Nothing is printed then.
pub fn catching_panics(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTS_PANICS.get() {
                print(info);
            }
        }));
    });
    EXPECTS_PANICS.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    EXPECTS_PANICS.set(false);
    result.unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
}

/// A plan that fails as `plan` does, with as many steps left out as could be: halves first, then smaller parts, then single steps.
pub fn shrink(plan: &Plan, bug: Option<Bug>) -> Plan {
    let mut kept: Vec<usize> = plan.steps.iter().map(|step| step.number).collect();
    let only = |numbers: &[usize]| {
        let numbers: BTreeSet<usize> = numbers.iter().copied().collect();
        plan.without(&|number| !numbers.contains(&number))
    };
    let mut runs = 0;
    let mut part = kept.len().div_ceil(2);
    while part > 0 && runs < SHRINK_RUNS_MAX {
        let mut start = 0;
        let before = kept.len();
        while start < kept.len() && runs < SHRINK_RUNS_MAX {
            let end = (start + part).min(kept.len());
            let rest: Vec<usize> = kept[..start].iter().chain(&kept[end..]).copied().collect();
            runs += 1;
            if run(&only(&rest), bug, &mut Trace::new(false)).failure.is_some() {
                kept = rest;
            } else {
                start = end;
            }
        }
        if part > 1 || kept.len() == before {
            part /= 2;
        }
    }
    only(&kept)
}

/// All that there is to say of a seed that fails: what is wrong, the shortest schedule found, and the whole history.
pub fn explain(plan: &Plan, bug: Option<Bug>) -> String {
    let mut trace = Trace::new(true);
    let verdict = run(plan, bug, &mut trace);
    let mut text = String::new();
    let failure = verdict.failure.as_deref().unwrap_or("nothing is wrong");
    let lines = trace.into_lines();
    let mut say = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("text can be written to");
    say(format_args!(
        "seed {}, {} steps, trace hash {:016x}",
        plan.seed,
        plan.steps.len(),
        verdict.trace_hash
    ));
    say(format_args!("{:?}", plan.shape));
    for line in lines {
        say(format_args!("{line}"));
    }
    say(format_args!("seed {}: {failure}", plan.seed));
    text
}
