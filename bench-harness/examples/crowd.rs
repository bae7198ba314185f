//! A crowd beside a measurement: idle connections, and connections that have sent the front of a request, to one broker, until
//! standard input ends. `ringmq-bench produce` beside it, and without it, tells what they cost honest clients.
//!
//!     crowd 127.0.0.1:10911 10000 1000

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use runtime::host::{Resource, raise_limit};

/// The front of a send of 4 MiB: what its frame and its header are long, and a piece of the header.
const HALF_REQUEST: &[u8] =
    b"\x00\x40\x00\x00\x00\x00\x01\x00{\"code\":310,\"language\":\"OTHER\",\"version\":317,\"opaque\":1";

fn main() -> ExitCode {
    match crowd() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn crowd() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, idle, half] = &arguments[..] else {
        return Err("say HOST:PORT, how many idle connections, and how many with half a request".to_owned());
    };
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
    let (idle, half) = (number(idle)?, number(half)?);
    raise_limit(Resource::OpenFiles).map_err(|error| error.to_string())?;
    let connect = || TcpStream::connect(address).map_err(|error| format!("{address}: {error}"));
    let mut connections = Vec::with_capacity(idle + half);
    for index in 0..idle + half {
        let mut connection = connect()?;
        if index >= idle {
            connection.write_all(HALF_REQUEST).map_err(|error| error.to_string())?;
        }
        connections.push(connection);
    }
    println!("{idle} idle connections and {half} half requests at {address}");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    Ok(())
}
