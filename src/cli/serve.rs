//! `ringmq serve`: the broker and the name server in one process.

use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::executor::Backend;
use runtime::host;
use shards::store_dir::{StoreDir, StoreSettings};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::config::text::ConfigText;
use crate::config::{Config, ConfigError, FlushDiskType};
use crate::node::{Node, NodeError};

/// How often the main thread looks for signals and for cores that have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Runs broker and name server until SIGTERM or Ctrl-C.
///
/// Prints one line `ready …` with all addresses on standard output when it accepts connections; logs go to standard error
/// (RINGMQ_LOG=debug for more). Flags override environment variables (RINGMQ_PORT, RINGMQ_FLUSH_DISK_TYPE …), which override
/// the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example configuration (all keys are optional):

  node_name = \"ringmq\"     # shard 0 is known to clients as ringmq-0
  brokerClusterName = \"DefaultCluster\"
  flushDiskType = \"SYNC_FLUSH\"
  mappedFileSizeCommitLog = \"1GiB\"
  metrics_port = 5557      # on 127.0.0.1; 0 for none
  stages = false           # measure the time of every stage of every message
  autoCreateTopicEnable = true           # topics come into being with their first message
  autoCreateSubscriptionGroup = true     # and groups when they are first named
  enablePropertyFilter = true            # consumers may filter by SQL92 expressions
  defaultTopicQueueNums = 8  # queues of such a topic, at most
  serverChannelMaxIdleTimeSeconds = 120  # a connection on which nothing moves for so long is closed
  scrub_interval_s = 604800  # check all that is stored in this time, again and again; 0 for never
  fileReservedTime = 72    # hours that messages are kept
  deleteWhen = \"04\"        # hours of the day in which old files go; \"04;16\" for two
  diskMaxUsedSpaceRatio = 75       # percent; on a fuller disk old files go at any hour
  cleanFileForciblyEnable = false  # whether the oldest files go before their time on a disk that is too full
  diskSpaceCleanForciblyRatio = 85 # percent; on a fuller disk they do
  diskSpaceWarningLevelRatio = 90  # percent; on a fuller disk no messages are taken
  disk_reserve = \"64MiB\"  # what a new CommitLog file leaves free
  placement = \"co-located\" # both halves of a shard on one core; or \"spread\"; only without [[core]] tables
  hot_tail = \"64MiB\"      # newest messages kept in memory, per shard
  cold_cache = \"16MiB\"    # older ones that were read from the disk, per shard
  spin = \"0us\"            # how long a core looks for work before it sleeps
  [[core]]
  cpu = 0
  log = [0]                # shards whose CommitLog lives here
  serve = [1]              # shards whose clients are served here
  hot_tail = \"256MiB\"
  [[core]]
  cpu = 1
  log = [1]
  serve = [0]")]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", env = "RINGMQ_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

/// The flags that override the configuration file.
#[derive(Debug, Default, clap::Args)]
pub struct Overrides {
    /// Folder of the store; made when missing [default: data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on, as clients will be told it [default: 127.0.0.1].
    #[arg(long, value_name = "ADDR")]
    pub host: Option<IpAddr>,
    /// Port of shard 0; shard i listens on this plus i [default: 10911].
    #[arg(long)]
    pub port: Option<u16>,
    /// Port of the name server [default: 9876].
    #[arg(long)]
    pub namesrv_port: Option<u16>,
    /// Cores to use [default: all that the process may use].
    #[arg(long)]
    pub cores: Option<usize>,
    /// Shards of a new store, fixed when it is made [default: one per core].
    #[arg(long)]
    pub shards: Option<u32>,
    /// When a message is acknowledged: sync, after it is on the disk [default], or async, flushed every 500 ms.
    #[arg(long)]
    pub flush: Option<FlushDiskType>,
    /// What the cores run on: ring, our own loop over io_uring, or glommio [default: ring where the kernel is new enough].
    #[arg(long)]
    pub runtime: Option<Backend>,
    /// Port of the metrics page on 127.0.0.1, 0 for none [default: 5557].
    #[arg(long)]
    pub metrics_port: Option<u16>,
}

impl Overrides {
    fn into_text(self) -> ConfigText {
        ConfigText {
            data: self.data,
            host: self.host,
            port: self.port,
            namesrv_port: self.namesrv_port,
            cores: self.cores,
            shards: self.shards,
            flush_disk_type: self.flush,
            runtime: self.runtime,
            metrics_port: self.metrics_port,
            ..ConfigText::default()
        }
    }
}

/// Reads file, environment and flags, in this order.
///
/// # Errors
/// See [`ConfigError`].
pub fn read_config(file: Option<PathBuf>, overrides: Overrides) -> Result<ConfigText, ConfigError> {
    let text = file.map_or_else(|| Ok(ConfigText::default()), |path| ConfigText::from_file(&path))?;
    Ok(text.override_by_environment(std::env::vars())?.override_by(overrides.into_text()))
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until told to stop.
///
/// # Errors
/// It cannot start, or a core ended.
pub fn run(args: Args) -> Result<(), ServeError> {
    let filter = EnvFilter::try_from_env("RINGMQ_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        // A line that cannot be written, as on a full disk, is lost. The default tells standard error so, and panics when that fails too.
        .log_internal_errors(false)
        .init();
    end_process_on_panic();
    let text = read_config(args.config, args.overrides)?;
    let cpus = host::allowed_cpus()?;
    let data = text.data_or_default();
    let settings = StoreSettings {
        shards: text.wanted_shards(),
        shards_if_new: text.default_shards(&cpus),
        segment_bytes: text.mapped_file_size_commit_log.map(|size| size.0),
        node: text.node_name_or_default(),
    };
    let store = StoreDir::open(&data, &settings).map_err(NodeError::from)?;
    let config = Config::resolve(text, store.shards(), &cpus)?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut node = Node::start(config, store)?;
    announce(&node)?;
    while signals.pending().next().is_none() {
        node.check()?;
        std::thread::sleep(LOOK_INTERVAL);
    }
    info!("stopping");
    node.stop()?;
    info!("stopped; nothing acknowledged is lost");
    Ok(())
}

fn announce(node: &Node) -> std::io::Result<()> {
    let addresses: Vec<_> =
        node.addresses().iter().map(|(name, address)| format!("{name}={address}")).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {}", addresses.join(" "))?;
    out.flush()?;
    let (_, name_server) = node.addresses().pop().expect("the name server is the last address");
    let program = std::env::args().next().unwrap_or_else(|| "ringmq".to_owned());
    eprintln!("Send a first message, from another shell:");
    eprintln!("    {program} send hello 'Hello RingMQ' --namesrv {name_server}");
    eprintln!("    {program} receive hello --namesrv {name_server}");
    Ok(())
}

/// A panic on any thread ends the process: what it leaves behind could neither be trusted nor be missed.
fn end_process_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::text::KEYS;

    #[test]
    fn the_help_has_every_key_of_the_configuration_and_its_example_can_be_used() {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("serve"));
        let help = command.get_after_help().expect("an example").to_string();
        let (_, example) = help.split_once("\n\n").expect("a line, then the example");
        let typed = ConfigText::parse(example, "help").unwrap();
        Config::resolve(typed, 2, &[0, 1]).unwrap();
        for key in KEYS {
            let is_flag = command.get_arguments().any(|flag| flag.get_long() == Some(&key.replace('_', "-")));
            let lines = || example.lines().map(str::trim_start);
            let is_in_example = lines().any(|line| {
                line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[[{key}]]"))
            });
            assert!(is_flag || is_in_example, "{key} is neither a flag nor in the example");
        }
    }
}
