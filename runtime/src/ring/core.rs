//! The executor of one core: its tasks, its sleeps, its ring, and the loop over them.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_task::Runnable;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::operation::{Entry, Operation, OperationKey, Operations, Owned};
use super::receive_buffers::ReceiveBuffers;
use super::timers::Timers;
use super::waking::Waking;
use crate::load::{Load, LoadMeter};

/// Completions that fit before the kernel keeps them back, per submission entry.
const COMPLETIONS_PER_ENTRY: u32 = 16;
/// Tasks that run before the kernel is asked again what has completed.
const TASKS_PER_TURN: usize = 1024;
/// A task that has had the core for this long lets others run.
const TURN_MAX: Duration = Duration::from_millis(1);
/// How long the end of a core waits for the kernel to give memory back.
const LAST_OPERATIONS_MAX: Duration = Duration::from_secs(2);
const LAST_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// `user_data` of the read by which other threads end the core's sleep.
const WOKEN: u64 = u64::MAX;
/// `user_data` of requests whose result nobody asks for.
const IGNORED: u64 = u64::MAX - 1;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    /// The same as an address, for comparing.
    static CURRENT_WAKING: Cell<*const Waking> = const { Cell::new(std::ptr::null()) };
}

/// The core that this thread is, if it is one of this backend.
pub(crate) fn current() -> Option<Rc<Core>> {
    CURRENT.with_borrow(Clone::clone)
}

/// One core. Lives and dies on its thread.
pub(crate) struct Core {
    waking: Arc<Waking>,
    /// Tasks that can go on, in the order in which they were woken.
    ready: RefCell<VecDeque<Runnable>>,
    /// Tasks that go on when the kernel has been asked once more.
    yielded: RefCell<Vec<Waker>>,
    /// Every task that has not ended.
    tasks: RefCell<Slab<Waker>>,
    timers: RefCell<Timers>,
    operations: RefCell<Operations>,
    ring: RefCell<ManuallyDrop<IoUring>>,
    receive_buffers: ManuallyDrop<ReceiveBuffers>,
    /// Where the kernel puts the counter of the event that wakes the core.
    woken_counter: Box<Cell<u64>>,
    expects_waking: Cell<bool>,
    is_ending: Cell<bool>,
    spin: Duration,
    turn_began: Cell<Instant>,
    load: LoadMeter,
}

/// Makes the ring of a core as this backend needs it.
///
/// # Errors
/// The kernel has no io_uring, forbids it, or is older than 6.1.
pub(crate) fn make_ring(depth: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_cqsize(depth.next_power_of_two() * COMPLETIONS_PER_ENTRY)
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(depth)
}

/// Runs `main` on this thread until it ends. What it started and did not end is dropped then.
///
/// # Errors
/// The ring cannot be made.
pub(crate) fn run(depth: u32, spin: Duration, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let ring = make_ring(depth)?;
    let receive_buffers = ReceiveBuffers::register(&ring)?;
    let core = Rc::new(Core {
        waking: Arc::new(Waking::new()?),
        ready: RefCell::default(),
        yielded: RefCell::default(),
        tasks: RefCell::default(),
        timers: RefCell::default(),
        operations: RefCell::default(),
        ring: RefCell::new(ManuallyDrop::new(ring)),
        receive_buffers: ManuallyDrop::new(receive_buffers),
        woken_counter: Box::default(),
        expects_waking: Cell::new(false),
        is_ending: Cell::new(false),
        spin,
        turn_began: Cell::new(Instant::now()),
        load: LoadMeter::default(),
    });
    assert!(current().is_none(), "a thread is one core");
    CURRENT.set(Some(Rc::clone(&core)));
    CURRENT_WAKING.set(Arc::as_ptr(&core.waking));
    core.expect_waking();
    core.run(main);
    core.end_tasks();
    let all_back = core.end_operations();
    CURRENT_WAKING.set(std::ptr::null());
    CURRENT.set(None);
    if all_back && let Ok(mut core) = Rc::try_unwrap(core).map_err(drop) {
        // SAFETY: neither is used again; the ring, which may still look at the buffers, goes first. Otherwise both are leaked, as the
        // kernel may still write there.
        unsafe {
            ManuallyDrop::drop(core.ring.get_mut());
            ManuallyDrop::drop(&mut core.receive_buffers);
        }
    }
    Ok(())
}

impl Core {
    // Tasks.

    /// Starts a task.
    pub(crate) fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let ending = TaskEnding { core: Rc::downgrade(self), key: entry.key() };
        let waking = Arc::clone(&self.waking);
        let schedule = move |runnable| {
            if CURRENT_WAKING.get() == Arc::as_ptr(&waking) {
                CURRENT.with_borrow(|core| {
                    let core = core.as_ref().expect("set together with the address that was compared");
                    core.ready.borrow_mut().push_back(runnable);
                });
            } else {
                waking.wake(runnable);
            }
        };
        let task = async move {
            let _ending = ending;
            future.await;
        };
        let (runnable, task) = async_task::spawn_local(task, schedule);
        entry.insert(runnable.waker());
        drop(tasks);
        runnable.schedule();
        task.detach();
    }

    /// Waits until every other ready task has run and the kernel was asked what has completed.
    pub(crate) async fn yield_now(&self) {
        let mut has_yielded = false;
        poll_fn(|context| {
            if has_yielded {
                return Poll::Ready(());
            }
            has_yielded = true;
            self.yielded.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether this turn has taken so long that others should have theirs.
    pub(crate) fn is_turn_over(&self) -> bool {
        self.turn_began.get().elapsed() > TURN_MAX
    }

    pub(crate) fn load(&self) -> Load {
        self.load.load()
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        let Some(deadline) = Instant::now().checked_add(duration) else {
            return std::future::pending().await;
        };
        let mut sleep = Sleep { core: self, deadline, key: None };
        poll_fn(|context| sleep.poll(context)).await;
    }

    // Operations.

    /// Hands `request` to the kernel at the end of this turn.
    ///
    /// # Safety
    /// All memory that the request names belongs to `owned`, at an address that does not change when `owned` moves, or lives as long
    /// as the process; and its descriptors are open until it ends.
    pub(super) unsafe fn start(self: &Rc<Self>, request: squeue::Entry, owned: Owned) -> Operation {
        let key = self.operations().insert(Entry::Waiting { waker: None, owned });
        // SAFETY: passed on; the table keeps `owned` until the kernel is done.
        unsafe { self.push(&request.user_data(key)) };
        Operation::new(Rc::clone(self), key)
    }

    /// The same for a request whose completions all come to one entry of the table, which stays until it is removed.
    ///
    /// # Safety
    /// As [`Self::start`], with what `entry` owns.
    pub(super) unsafe fn start_entry(&self, request: squeue::Entry, entry: Entry) -> OperationKey {
        let key = self.operations().insert(entry);
        // SAFETY: passed on.
        unsafe { self.push(&request.user_data(key)) };
        key
    }

    /// Ends an operation early: its completion comes all the same, and soon.
    pub(super) fn cancel(&self, key: OperationKey) {
        let request = opcode::AsyncCancel::new(key).build();
        // SAFETY: the request names no memory.
        unsafe { self.push(&request.user_data(IGNORED)) };
    }

    /// Hands over at once what was asked for in this turn. Before a descriptor is closed: its number may name another file by the end of
    /// the turn.
    pub(super) fn submit(&self) {
        let mut ring = self.ring.borrow_mut();
        while !ring.submission().is_empty() {
            if let Err(error) = ring.submit() {
                assert!(is_passing(&error), "the ring takes no requests: {error}");
            }
        }
    }

    pub(super) fn operations(&self) -> RefMut<'_, Operations> {
        self.operations.borrow_mut()
    }

    /// # Safety
    /// As [`Self::start`].
    unsafe fn push(&self, request: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: passed on.
            if unsafe { ring.submission().push(request) }.is_ok() {
                return;
            }
            // Full: the kernel takes what is there.
            if let Err(error) = ring.submit() {
                assert!(is_passing(&error), "the ring takes no requests: {error}");
            }
        }
    }

    fn expect_waking(&self) {
        self.expects_waking.set(true);
        let counter = self.woken_counter.as_ptr().cast();
        let request = opcode::Read::new(types::Fd(self.waking.event()), counter, 8).build();
        // SAFETY: the counter lives in a box of the core's, which outlives the operation: see `run`. The core keeps the event open.
        unsafe { self.push(&request.user_data(WOKEN)) };
    }

    // The loop.

    fn run(self: &Rc<Self>, main: impl Future<Output = ()> + 'static) {
        let has_ended = Rc::new(Cell::new(false));
        let end = Rc::clone(&has_ended);
        self.spawn(async move {
            main.await;
            end.set(true);
        });
        let mut completed = Vec::new();
        let mut idle_since = None;
        let (mut waited_from, mut was_idle) = (None, true);
        loop {
            let now = Instant::now();
            self.load.turn_ended(self.turn_began.replace(now), waited_from, now, was_idle);
            was_idle = !self.run_ready();
            if has_ended.get() {
                return;
            }
            let is_idle = self.ready.borrow().is_empty() && self.yielded.borrow().is_empty();
            if !was_idle || !is_idle {
                idle_since = None;
            }
            let may_wait = is_idle && self.has_spun(&mut idle_since) && self.waking.prepare_to_sleep();
            waited_from = may_wait.then(Instant::now);
            self.enter(waited_from);
            self.waking.awake();
            self.wake_after_entering(&mut completed);
        }
    }

    /// Whether the core has polled long enough since it has nothing to do.
    fn has_spun(&self, idle_since: &mut Option<Instant>) -> bool {
        self.spin.is_zero() || idle_since.get_or_insert_with(Instant::now).elapsed() >= self.spin
    }

    /// Whether there was any.
    fn run_ready(&self) -> bool {
        for ran in 0..TASKS_PER_TURN {
            let Some(runnable) = self.ready.borrow_mut().pop_front() else { return ran > 0 };
            runnable.run();
        }
        true
    }

    /// Submits what was asked for, and if it may, waits from now on for a completion, a sleep's end or another thread.
    fn enter(&self, may_wait_from: Option<Instant>) {
        let may_wait = may_wait_from.is_some();
        let mut ring = self.ring.borrow_mut();
        if !may_wait && {
            let submission = ring.submission();
            submission.is_empty() && !submission.taskrun() && !submission.cq_overflow()
        } {
            return;
        }
        let first = may_wait_from.and_then(|now| self.timers.borrow().until_first(now));
        self.load.entered_kernel();
        let timeout = first.map(|wait| Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos()));
        let submitter = ring.submitter();
        let entered = match &timeout {
            Some(timeout) => {
                submitter.submit_with_args(usize::from(may_wait), &SubmitArgs::new().timespec(timeout))
            }
            None => submitter.submit_and_wait(usize::from(may_wait)),
        };
        match entered {
            Ok(_) => {}
            Err(error) => assert!(is_passing(&error), "the ring cannot be entered: {error}"),
        }
    }

    /// Wakes the tasks whose turn it is, after the kernel was asked: what completed, what other threads woke, what slept, what yielded.
    fn wake_after_entering(self: &Rc<Self>, completed: &mut Vec<(u64, i32, u32)>) {
        completed.extend(
            self.ring
                .borrow_mut()
                .completion()
                .map(|entry: cqueue::Entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for (user_data, result, flags) in completed.drain(..) {
            self.complete(user_data, result, flags);
        }
        let mut woken = Vec::new();
        self.waking.take(&mut woken);
        self.ready.borrow_mut().extend(woken);
        if !self.timers.borrow().is_empty() {
            let now = Instant::now();
            while let Some(waker) = { self.timers.borrow_mut().take_due(now) } {
                waker.wake();
            }
        }
        for waker in self.yielded.take() {
            waker.wake();
        }
    }

    fn complete(self: &Rc<Self>, user_data: u64, result: i32, flags: u32) {
        match user_data {
            WOKEN if self.is_ending.get() => self.expects_waking.set(false),
            WOKEN => {
                assert_eq!(result, 8, "the event that wakes a core is read whole");
                self.expect_waking();
            }
            IGNORED => {}
            key => {
                let Some(socket) = self.operations().receiving(key) else {
                    return self.operations().complete(key, result);
                };
                if let Some(buffer) = cqueue::buffer_select(flags) {
                    let bytes = usize::try_from(result).unwrap_or(0);
                    socket.received(self.receive_buffers.received(buffer, bytes));
                    self.receive_buffers.give_back(buffer);
                }
                if cqueue::more(flags) {
                    if socket.has_enough() {
                        self.cancel(key);
                    }
                } else {
                    self.operations().remove(key);
                    socket.receiving_ended(result);
                }
            }
        }
    }

    // The end.

    /// Drops every task. A task that ends may wake others and even start some.
    fn end_tasks(&self) {
        loop {
            let waking: Vec<_> = self.tasks.borrow().iter().map(|(_, waker)| waker.clone()).collect();
            if waking.is_empty() {
                return;
            }
            waking.into_iter().for_each(Waker::wake);
            let mut woken = Vec::new();
            self.waking.take(&mut woken);
            woken.extend(self.ready.borrow_mut().drain(..));
            // Dropping what would run a task drops the task.
            drop(woken);
        }
    }

    /// Ends what the kernel still works on. Whether all of it is over.
    fn end_operations(self: &Rc<Self>) -> bool {
        self.is_ending.set(true);
        let everything = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
        let deadline = Instant::now() + LAST_OPERATIONS_MAX;
        let mut completed = Vec::new();
        while Instant::now() < deadline {
            if self.operations().under_way() == 0 && !self.expects_waking.get() {
                return true;
            }
            // SAFETY: the request names no memory.
            unsafe { self.push(&everything.clone().user_data(IGNORED)) };
            let mut look_again = pin!(self.sleep(LAST_LOOK_INTERVAL));
            assert!(look_again.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            self.enter(Some(Instant::now()));
            self.wake_after_entering(&mut completed);
        }
        false
    }
}

/// Takes a task out of the table when it ends or is dropped.
struct TaskEnding {
    core: std::rc::Weak<Core>,
    key: usize,
}

impl Drop for TaskEnding {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            let ended = core.tasks.borrow_mut().remove(self.key);
            // Dropped only now: it may be the last one of the task, which then goes too.
            drop(ended);
        }
    }
}

/// A wait for a moment.
struct Sleep<'a> {
    core: &'a Core,
    deadline: Instant,
    key: Option<super::timers::TimerKey>,
}

impl Sleep<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut timers = self.core.timers.borrow_mut();
        match &self.key {
            None => self.key = Some(timers.insert(self.deadline, context.waker().clone())),
            Some(key) => {
                if !timers.update(key, context.waker()) {
                    self.key = None;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.core.timers.borrow_mut().remove(key);
        }
    }
}

/// Whether the ring can simply be entered again: a signal came, the time was over, or completions must be looked at first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}
