//! The HTTP page, on one thread of its own off the cores. Loopback only, and bounded in every way: connections, the time and the bytes of a
//! request, how often cores are asked. Whoever misuses it delays other readers of metrics, nobody else.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use runtime::meter::nanos;
use serde::{Deserialize, Serialize};
use shards::limits::METRIC_CONNECTIONS_MAX;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{debug, warn};

use super::page::{CONTENT_TYPE, CoreReport, NodeSnapshot};
use super::snapshot::{SlowRequest, StageSummary};
use super::{Ask, Want, thread_time};

/// How long a core may take to answer before it is reported as silent.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Cores are asked at most this often, however many read.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// A peer has this long for the head of a request, and a connection this long in all.
const HEAD_MAX: Duration = Duration::from_secs(5);
const CONNECTION_MAX: Duration = Duration::from_secs(120);
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_FIELDS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const INDEX: &str = "RingMQ\n\n/metrics  Prometheus page\n/healthz  whether every core answers\n/cores    load of each core, JSON\n\
                     /slow     slowest requests, JSON\n/stages   time of each stage, JSON; PUT /stages/on and /stages/off\n";

/// The cores, as far as the page needs them.
pub trait Cores: Send + Sync + 'static {
    fn count(&self) -> usize;
    /// Puts the question into the core's mailbox without waiting; false when there is no room.
    fn ask(&self, core: usize, ask: Ask) -> bool;
    /// The longest stall that the watchdog saw, milliseconds.
    fn longest_stall_ms(&self, core: usize) -> u64;
}

/// The stages of one core, as `/stages` tells them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreStages {
    pub core: usize,
    pub enabled: bool,
    pub stages: Vec<StageSummary>,
}

/// Serves the page on `listener` from a thread of its own, for as long as the process lives.
///
/// # Errors
/// The system refuses another thread or what it needs.
pub fn start(listener: TcpListener, cores: Arc<dyn Cores>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, site(cores)).await,
                Err(error) => warn!(%error, "the metrics page cannot be served"),
            }
        });
    })?;
    Ok(())
}

fn site(cores: Arc<dyn Cores>) -> Router {
    let site = Site { cores, started: Instant::now(), last_asked: Mutex::new(None) };
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/cores", get(load))
        .route("/slow", get(slow))
        .route("/stages", get(stages))
        .route("/stages/{switch}", put(switch_stages))
        .with_state(Arc::new(site))
}

async fn accept(listener: tokio::net::TcpListener, site: Router) {
    let permits = Arc::new(Semaphore::new(METRIC_CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let served = serve(stream, site.clone());
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(CONNECTION_MAX, served).await {
                        debug!(%peer, %error, "a connection to the metrics page ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "a connection to the metrics page could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, site: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(site))
        .await
}

/// What the handlers share.
struct Site {
    cores: Arc<dyn Cores>,
    started: Instant,
    /// Held while the cores are asked: one question at a time.
    last_asked: Mutex<Option<Instant>>,
}

impl Site {
    /// Asks every core at once and waits for all of them.
    async fn ask(&self, want: Want) -> NodeSnapshot {
        let mut last_asked = self.last_asked.lock().await;
        if let Some(last) = *last_asked {
            sleep(ASK_INTERVAL.saturating_sub(last.elapsed())).await;
        }
        *last_asked = Some(Instant::now());
        let deadline = tokio::time::Instant::now() + ANSWER_MAX;
        let asked = (0..self.cores.count()).map(|core| {
            let (answer, answers) = flume::bounded(1);
            self.cores.ask(core, Ask { want, answer }).then_some(answers)
        });
        let asked: Vec<_> = asked.collect();
        let mut cores = Vec::with_capacity(asked.len());
        for (core, answers) in asked.into_iter().enumerate() {
            let snapshot = match answers {
                Some(answers) => timeout_at(deadline, answers.recv_async()).await.ok().and_then(Result::ok),
                None => None,
            };
            let thread_time = snapshot.as_ref().and_then(|snapshot| thread_time::of_thread(&snapshot.thread));
            let longest_stall_ms = self.cores.longest_stall_ms(core);
            cores.push(CoreReport { core, snapshot, thread_time, longest_stall_ms });
        }
        NodeSnapshot {
            uptime_ns: nanos(self.started.elapsed()),
            resident_bytes: thread_time::resident_bytes(),
            cores,
        }
    }
}

type SharedSite = State<Arc<Site>>;

async fn metrics(State(site): SharedSite) -> Response {
    match site.ask(Want { series: true, ..Want::default() }).await.page() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn load(State(site): SharedSite) -> Json<NodeSnapshot> {
    Json(site.ask(Want::default()).await)
}

/// Whether every core answers and every log takes messages.
async fn healthz(State(site): SharedSite) -> Response {
    let node = site.ask(Want::default()).await;
    let mut problems = String::new();
    for CoreReport { core, snapshot, .. } in &node.cores {
        let Some(snapshot) = snapshot else {
            problems += &format!("core {core} did not answer within {ANSWER_MAX:?}\n");
            continue;
        };
        for log in snapshot.logs.iter().filter(|log| log.failed || log.disk_full) {
            let what = if log.failed {
                "a write failed; restart it when the disk is well"
            } else {
                "the disk is full"
            };
            problems += &format!("the log of {} takes no messages: {what}\n", log.broker);
        }
    }
    if problems.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems).into_response()
    }
}

async fn slow(State(site): SharedSite) -> Json<Vec<SlowRequest>> {
    let node = site.ask(Want { slow: true, ..Want::default() }).await;
    let answered = node.cores.into_iter().filter_map(|report| report.snapshot);
    let mut slow: Vec<SlowRequest> = answered.flat_map(|core| core.slow).collect();
    slow.sort_by(|one, other| other.total_us.total_cmp(&one.total_us));
    Json(slow)
}

async fn stages(State(site): SharedSite) -> Json<Vec<CoreStages>> {
    Json(core_stages(site.ask(Want::default()).await))
}

/// PUT, which a page of another origin cannot send without being asked first.
async fn switch_stages(State(site): SharedSite, Path(switch): Path<String>) -> Response {
    let on = match switch.as_str() {
        "on" => true,
        "off" => false,
        _ => return (StatusCode::NOT_FOUND, "stages are switched `on` or `off`\n").into_response(),
    };
    Json(core_stages(site.ask(Want { set_stages: Some(on), ..Want::default() }).await)).into_response()
}

fn core_stages(node: NodeSnapshot) -> Vec<CoreStages> {
    let answered = node.cores.into_iter().filter_map(|report| report.snapshot);
    answered
        .map(|core| CoreStages { core: core.core, enabled: core.stages_on, stages: core.stages })
        .collect()
}
