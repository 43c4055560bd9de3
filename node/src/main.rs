//! `hearthd`: arguments, logging and exit code. Everything else is the library's.

use std::io::Write;
use std::process::ExitCode;

use hearth_node::config::{self, ConfigError, Request};
use hearth_node::logging::Log;
use hearth_node::{NodeError, offline, start_ns_loop};

/// See the workspace's `Cargo.toml` for why, and `.cargo/config.toml` for its settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 2;
/// Anything else that keeps the server from running.
const EXIT_FAILURE: u8 = 1;
/// The cluster has removed this node: starting it again is of no use.
const EXIT_REMOVED: u8 = 3;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(ended) = offline::run(&words) {
        return ended;
    }
    let mut log = match Log::open() {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hearthd: cannot start: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let config = match config::load(words, std::env::vars_os()) {
        Ok(Request::Run(config)) => *config,
        Ok(Request::Print(text)) => {
            // Nobody reads it if this fails.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(ConfigError { mistakes }) => {
            for mistake in mistakes {
                log.say(&mistake);
            }
            log.say("see hearthd --help");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if config.key_on_command_line {
        log.say(
            "warning: using -k to supply HMAC key on the command line is a security problem; set PYRO_HMAC_KEY \
             in the environment instead",
        );
    }
    if let Err(error) = log.start(&config.log) {
        let place = config
            .log
            .file
            .as_deref()
            .map(|path| path.display().to_string());
        log.say(&format!(
            "cannot log to {}: {error}",
            place.as_deref().unwrap_or("standard error")
        ));
        return ExitCode::from(EXIT_FAILURE);
    }
    if log.is_in_file() || !tracing::enabled!(tracing::Level::WARN) {
        for notice in &config.notices {
            log.say(&format!("warning: {notice}"));
        }
    }
    match start_ns_loop(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&error.to_string());
            ExitCode::from(match error {
                NodeError::Removed(_) => EXIT_REMOVED,
                _ => EXIT_FAILURE,
            })
        }
    }
}
