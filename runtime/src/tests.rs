//! What both backends promise, shown on each of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::executor::{Backend, CoreSpec, start_core, write_probe_file};
use crate::file::{self, Access, File, WriteKind};
use crate::mailbox::mailbox;
use crate::socket::Stream;
use crate::task::{Signal, sleep, spawn, yield_now};
use crate::{host, ring};

const PATIENCE: Duration = Duration::from_secs(20);

fn start<F: Future<Output = ()> + 'static>(
    backend: Backend,
    folder: &Path,
    core: usize,
    main: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<io::Result<()>> {
    let cpus = host::allowed_cpus().unwrap();
    let spec = CoreSpec {
        name: format!("{backend}-{core}"),
        backend,
        cpu: cpus[core % cpus.len()],
        ring_depth: 64,
        spin: Duration::ZERO,
        locked_memory_bytes: 1 << 20,
        probe_file: write_probe_file(folder).unwrap(),
    };
    start_core(spec, main).unwrap()
}

/// Runs `main` on a core of each backend, in a folder of its own.
fn on_each_backend<F: Future<Output = ()> + 'static>(
    main: impl FnOnce(PathBuf) -> F + Clone + Send + 'static,
) {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let (ended, is_over) = mpsc::channel();
        let (main, path) = (main.clone(), folder.path().to_path_buf().canonicalize().unwrap());
        let core = start(backend, folder.path(), 0, move || async move {
            main(path).await;
            ended.send(()).unwrap();
        });
        let over = is_over.recv_timeout(PATIENCE);
        if matches!(over, Err(mpsc::RecvTimeoutError::Timeout)) {
            panic!("the test does not end on {backend}");
        }
        match core.join() {
            Ok(ended) => ended.unwrap(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[test]
fn this_kernel_has_what_our_own_backend_needs() {
    ring::core::make_ring(8).unwrap();
    assert_eq!(Backend::best(), Backend::Ring);
    assert_eq!("glommio".parse(), Ok(Backend::Glommio));
    assert!("tokio".parse::<Backend>().unwrap_err().to_string().contains("`ring` or `glommio`"));
}

#[test]
fn two_cores_exchange_mail() {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let (to_second, second_box) = mailbox::<u32>(16);
        let (to_first, first_box) = mailbox::<u32>(16);
        let (report, result) = mpsc::channel();
        let first = start(backend, folder.path(), 0, move || async move {
            for number in 0..2000 {
                to_second.send(number).await.unwrap();
                assert_eq!(first_box.receive().await, Some(number + 1));
            }
            report.send(()).unwrap();
        });
        let second = start(backend, folder.path(), 1, move || async move {
            while let Some(number) = second_box.receive().await {
                yield_now().await;
                if to_first.send(number + 1).await.is_err() {
                    break;
                }
            }
        });
        result.recv_timeout(PATIENCE).expect("the cores exchange mail");
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    }
}

/// A wake from another thread at the very moment at which the core goes to sleep may not be lost.
#[test]
fn a_core_that_goes_to_sleep_is_woken_by_other_threads() {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let (to_core, core_box) = mailbox::<u32>(4);
        let (answer, answers) = mpsc::channel();
        let core = start(backend, folder.path(), 0, move || async move {
            while let Some(number) = core_box.receive().await {
                answer.send(number).unwrap();
            }
        });
        for number in 0..20_000 {
            to_core.send_blocking(number).unwrap();
            assert_eq!(answers.recv_timeout(PATIENCE), Ok(number), "lost on {backend}");
        }
        drop(to_core);
        core.join().unwrap().unwrap();
    }
}

/// The story: a core looked once how long it had nothing to do, and after that parked at once for ever.
#[test]
fn a_core_that_spins_takes_quick_messages_without_parking() {
    const ROUNDS: u64 = 300;
    let folder = tempfile::tempdir_in(".").unwrap();
    let (to_core, core_box) = mailbox::<u64>(4);
    let (answer, answers) = mpsc::channel();
    let spec = CoreSpec {
        name: "spins".to_owned(),
        backend: Backend::Ring,
        cpu: *host::allowed_cpus().unwrap().last().unwrap(),
        ring_depth: 64,
        spin: Duration::from_millis(20),
        locked_memory_bytes: 1 << 20,
        probe_file: write_probe_file(folder.path()).unwrap(),
    };
    let core = start_core(spec, move || async move {
        while core_box.receive().await.is_some() {
            answer.send(times_parked()).unwrap();
        }
    });
    let mut parked = Vec::new();
    for number in 0..ROUNDS {
        to_core.send_blocking(number).unwrap();
        parked.push(answers.recv_timeout(PATIENCE).unwrap());
    }
    drop(to_core);
    core.unwrap().join().unwrap().unwrap();
    let times = parked.last().unwrap() - parked[0];
    assert!(times < ROUNDS / 3, "parked {times} times for {ROUNDS} messages");
}

/// How often this thread gave its CPU away by itself.
fn times_parked() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// The story: a request handler that held its state borrowed started a task for the rest of the answer. The runtime ran the
/// task at once, inside the call, and its own borrow failed and ended the process.
#[test]
fn a_task_begins_only_after_whoever_started_it_has_let_go() {
    on_each_backend(|_| async {
        let state = Rc::new(RefCell::new(1));
        let done = Rc::new(Signal::default());
        {
            let mut held = state.borrow_mut();
            let (state, done) = (Rc::clone(&state), Rc::clone(&done));
            spawn(async move {
                *state.borrow_mut() *= 10;
                done.raise();
            });
            *held += 1;
        }
        done.wait().await;
        assert_eq!(*state.borrow(), 20);
    });
}

#[test]
fn a_wait_with_a_limit_ends_by_the_signal_or_by_the_limit() {
    on_each_backend(|_| async {
        let signal = Rc::new(Signal::default());
        assert!(!signal.wait_at_most(Duration::from_millis(1)).await);
        let raised = Rc::clone(&signal);
        spawn(async move { raised.raise() });
        assert!(signal.wait_at_most(Duration::from_secs(60)).await);
        signal.raise();
        assert!(signal.wait_at_most(Duration::ZERO).await, "raised before");
        assert!(!signal.wait_at_most(Duration::from_millis(1)).await, "and lowered by the wait");
    });
}

#[test]
fn sleeps_end_in_their_order_and_never_early() {
    on_each_backend(|_| async {
        let ended = Rc::new(RefCell::new(Vec::new()));
        let all = Rc::new(Signal::default());
        let began = Instant::now();
        for millis in [30, 10, 20, 0, 10] {
            let (ended, all) = (Rc::clone(&ended), Rc::clone(&all));
            spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                assert!(began.elapsed() >= Duration::from_millis(millis));
                ended.borrow_mut().push(millis);
                if ended.borrow().len() == 5 {
                    all.raise();
                }
            });
        }
        all.wait().await;
        assert_eq!(*ended.borrow(), [0, 10, 10, 20, 30]);
    });
}

#[test]
fn a_task_that_yields_lets_the_others_run() {
    on_each_backend(|_| async {
        let other_ran = Rc::new(Cell::new(false));
        let ran = Rc::clone(&other_ran);
        spawn(async move { ran.set(true) });
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(other_ran.get());
    });
}

#[test]
fn what_was_written_is_read_back() {
    on_each_backend(|dir| async move {
        let path = dir.join("file");
        for kind in [WriteKind::Durable, WriteKind::Plain] {
            let file = File::open(&path, Access::Create(kind)).await.unwrap();
            file.allocate(1 << 20).await.unwrap();
            let mut buffer = file.buffer(12 << 10);
            assert_eq!(buffer.as_mut().len(), 12 << 10);
            buffer.as_mut().fill(7);
            file.write(buffer, 4096).await.unwrap();
            file.write_zeros(&file.zero_buffer(4096), 8192).await.unwrap();
            file.sync().await.unwrap();
            let sum = |bytes: &[u8]| (bytes.len(), bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>());
            assert_eq!(file.read(4096, 4096, sum).await.unwrap(), (4096, 7 * 4096));
            assert_eq!(file.read(8192, 4096, sum).await.unwrap(), (4096, 0));
            assert_eq!(file.read(1 << 20, 4096, sum).await.unwrap(), (0, 0), "behind the end");
            file.close().await.unwrap();
        }
        let renamed = dir.join("renamed");
        file::rename(&path, &renamed).await.unwrap();
        file::sync_dir(&dir).await.unwrap();
        let file = File::open(&renamed, Access::Read).await.unwrap();
        let first = file.read(4096, 4096, |bytes| bytes[0]).await.unwrap();
        assert_eq!(first, 7);
        file::remove(&renamed).await.unwrap();
        let error = File::open(&renamed, Access::Write(WriteKind::Plain)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    });
}

/// Memory of an operation belongs to it until the kernel is done, whether or not somebody waits.
#[test]
fn a_write_that_nobody_waits_for_is_harmless() {
    on_each_backend(|dir| async move {
        let file = Rc::new(File::open(&dir.join("file"), Access::Create(WriteKind::Durable)).await.unwrap());
        for round in 0..50u8 {
            let mut buffer = file.buffer(64 << 10);
            buffer.as_mut().fill(round);
            {
                let mut write = Box::pin(file.write(buffer, u64::from(round) << 16));
                poll_fn(|context| {
                    assert!(write.as_mut().poll(context).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
            }
            yield_now().await;
        }
        let mut last = file.buffer(4096);
        last.as_mut().fill(1);
        file.write(last, 50 << 16).await.unwrap();
        let whole = file.read(50 << 16, 4096, |bytes| bytes.iter().all(|&byte| byte == 1)).await.unwrap();
        assert!(whole);
    });
}

/// Reads and writes a stream until the peer ends its side, as a connection's task does.
async fn echo(mut stream: Stream) -> io::Result<u64> {
    let mut input = BytesMut::new();
    let mut pieces = VecDeque::new();
    let mut echoed = 0;
    loop {
        let received = poll_fn(|context| stream.poll_receive(context, &mut input)).await?;
        if received == 0 {
            return Ok(echoed);
        }
        // In uneven pieces, so that several leave at once.
        while !input.is_empty() {
            let half = input.len().div_ceil(2);
            pieces.push_back(input.split_to(half).freeze());
        }
        loop {
            match poll_fn(|context| stream.poll_send(context, &mut pieces)).await? {
                0 => break,
                sent => echoed += sent as u64,
            }
        }
    }
}

#[test]
fn a_stream_echoes_more_than_fits_into_its_buffers_to_a_slow_reader() {
    const BYTES: usize = 24 << 20;
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let core = start(backend, folder.path(), 0, move || async move {
            let (socket, _) = listener.accept().unwrap();
            assert_eq!(echo(Stream::new(socket)).await.unwrap(), BYTES as u64);
        });
        let mut writer = TcpStream::connect(address).unwrap();
        let mut reader = writer.try_clone().unwrap();
        let sent = std::thread::spawn(move || {
            let bytes: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).expect("below 251")).collect();
            writer.write_all(&bytes).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut at = 0;
        let mut bytes = vec![0; 50_000];
        loop {
            let read = reader.read(&mut bytes).unwrap();
            if read == 0 {
                break;
            }
            for &byte in &bytes[..read] {
                assert_eq!(usize::from(byte), at % 251, "byte {at} on {backend}");
                at += 1;
            }
        }
        assert_eq!(at, BYTES);
        sent.join().unwrap();
        core.join().unwrap().unwrap();
    }
}

#[test]
fn many_connections_share_the_receive_buffers() {
    const CONNECTIONS: usize = 200;
    const ROUNDS: usize = 20;
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        let core = start(backend, folder.path(), 0, move || async move {
            let open = Rc::new(Cell::new(CONNECTIONS));
            let over = Rc::new(Signal::default());
            for _ in 0..CONNECTIONS {
                let (socket, _) = listener.accept().unwrap();
                let (open, over) = (Rc::clone(&open), Rc::clone(&over));
                spawn(async move {
                    assert_eq!(echo(Stream::new(socket)).await.unwrap(), (ROUNDS * 30_000) as u64);
                    open.set(open.get() - 1);
                    if open.get() == 0 {
                        over.raise();
                    }
                });
            }
            over.wait().await;
        });
        clients.extend((8..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()));
        let message = vec![9; 30_000];
        for _ in 0..ROUNDS {
            for client in &mut clients {
                client.write_all(&message).unwrap();
            }
            for client in &mut clients {
                let mut back = vec![0; 30_000];
                client.read_exact(&mut back).unwrap();
                assert_eq!(back, message);
            }
        }
        drop(clients);
        core.join().unwrap().unwrap();
    }
}

/// Whoever does not read what he is sent, and whoever sends what nobody reads, fills his own socket and nothing of ours.
#[test]
fn a_peer_is_stopped_when_nobody_takes_what_it_sends() {
    for backend in Backend::ALL {
        let folder = tempfile::tempdir_in(".").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (go_on, may_go_on) = mailbox::<()>(1);
        let core = start(backend, folder.path(), 0, move || async move {
            let (socket, _) = listener.accept().unwrap();
            let mut stream = Stream::new(socket);
            let mut input = BytesMut::new();
            poll_fn(|context| stream.poll_receive(context, &mut input)).await.unwrap();
            may_go_on.receive().await;
            let mut taken = input.len();
            loop {
                let received = poll_fn(|context| stream.poll_receive(context, &mut input)).await.unwrap();
                if received == 0 {
                    break;
                }
                taken += received;
                assert!(input.len() <= taken);
            }
            assert_eq!(input.len(), 64 << 20);
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let bytes = vec![1; 1 << 20];
        let mut sent = 0;
        loop {
            match client.write(&bytes) {
                Ok(wrote) => sent += wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 32 << 20, "{backend} takes what nobody asked for");
        }
        client.set_write_timeout(None).unwrap();
        go_on.send_blocking(()).unwrap();
        while sent < 64 << 20 {
            let left = ((64 << 20) - sent).min(bytes.len());
            sent += client.write(&bytes[..left]).unwrap();
        }
        drop(client);
        core.join().unwrap().unwrap();
    }
}

/// Tasks that wait when a core ends are dropped with all that they hold: peers see their connections end. Of our own backend only:
/// glommio leaks them until the process ends.
#[test]
fn the_end_of_a_core_ends_its_connections() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (end, may_end) = mailbox::<()>(1);
    let core = start(Backend::Ring, folder.path(), 0, move || async move {
        let (socket, _) = listener.accept().unwrap();
        spawn(async move {
            let ended = echo(Stream::new(socket)).await;
            unreachable!("the core ends first: {ended:?}");
        });
        spawn(async { sleep(Duration::from_secs(3600)).await });
        may_end.receive().await;
    });
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    end.send_blocking(()).unwrap();
    assert_eq!(client.read(&mut [0; 5]).ok(), Some(0), "the end of the connection");
    core.join().unwrap().unwrap();
}

#[test]
fn a_broken_connection_is_an_error_and_not_an_end() {
    on_each_backend(|_| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = Stream::new(listener.accept().unwrap().0);
        // Closing with unread bytes resets.
        let mut pieces = VecDeque::from([Bytes::from_static(b"unread")]);
        assert_eq!(poll_fn(|context| stream.poll_send(context, &mut pieces)).await.unwrap(), 6);
        client.set_nonblocking(true).unwrap();
        while client.peek(&mut [0; 6]).is_err() {
            yield_now().await;
        }
        drop(client);
        let mut input = BytesMut::new();
        let error = poll_fn(|context| stream.poll_receive(context, &mut input)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}
