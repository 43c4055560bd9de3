//! `pyro4-nsc` and `pyro5-nsc`: the behaviour of this program if it is started under one of these names.
//!
//! Options, streams and exit codes are those of the originals, down to the exceptions that they report on
//! standard output with exit code 0. Only tracebacks are shortened to their first and last line, because the
//! frames between belong to another program.

mod argparse;
mod environment;
mod optparse;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use hearth_cli::{ClientError, Config, NameServer, Protocol, hmac_key, locate_ns};
use hearth_wire::Family;

use crate::args::Format;
use crate::command::{
    Confirm, List, ListMatching, Lookup, Ping, Register, Remove, RemoveMatching, SetMetadata,
    YplookupAll, YplookupAny,
};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::output;

/// One of the original tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Pyro4,
    Pyro5,
}

impl Tool {
    /// Returns the tool with this program name.
    pub(crate) fn named(program: &str) -> Option<Self> {
        [Self::Pyro4, Self::Pyro5]
            .into_iter()
            .find(|tool| tool.program() == program)
    }

    fn program(self) -> &'static str {
        match self {
            Self::Pyro4 => "pyro4-nsc",
            Self::Pyro5 => "pyro5-nsc",
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Pyro4 => Family::Pyro4,
            Self::Pyro5 => Family::Pyro5,
        }
    }
}

/// The options of both tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    host: Option<String>,
    /// Port as Python's `int` reads it.
    port: Option<i64>,
    unixsocket: Option<String>,
    key: Option<String>,
    verbose: bool,
    /// The command and its arguments.
    words: Vec<String>,
}

/// An early end of the run, before or after a request to the name server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// The user asked for help.
    Help(&'static str),
    /// The command line is invalid: usage and reason, as the option parser prints them.
    Usage(String),
    /// Python's `SystemExit` with a text.
    Exit(String),
    /// An uncaught exception; its last line.
    Traceback(String),
    /// Standard output is closed.
    Pipe,
}

impl Stop {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Help(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Self::Usage(text) => {
                eprint!("{text}");
                ExitCode::from(2)
            }
            Self::Exit(text) => {
                eprintln!("{text}");
                ExitCode::FAILURE
            }
            Self::Traceback(end) => {
                eprintln!("Traceback (most recent call last):\n{end}");
                ExitCode::FAILURE
            }
            Self::Pipe => ExitCode::FAILURE,
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Pipe,
            _ => Self::Traceback(format!("OSError: {error}")),
        }
    }
}

/// Runs `tool` with these arguments.
pub(crate) async fn run(tool: Tool, arguments: &[std::ffi::OsString]) -> ExitCode {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match run_tool(tool, &arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.exit_code(),
    }
}

async fn run_tool(tool: Tool, arguments: &[String]) -> Result<(), Stop> {
    let (mut config, complaint) = environment::configure(tool)?;
    let options = match tool {
        Tool::Pyro4 => optparse::parse(arguments).and_then(with_key)?,
        Tool::Pyro5 => argparse::parse(arguments)?,
    };
    config.connect.protocol = Protocol::Only(tool.family());
    config.connect.hmac_key = options.key.as_deref().and_then(hmac_key);
    let say = |line: &str| output::line(line, &mut io::stdout().lock());
    if options.verbose {
        say("Locating name server...")?;
    }
    if let Some(complaint) = complaint {
        return Ok(say(&complaint)?);
    }
    let mut name_server = match locate(&options, &config).await {
        Ok(name_server) => name_server,
        Err(error) => return Ok(say(&Failure::Locate(error).line())?),
    };
    if options.verbose {
        say(&format!("Name server found: {}", name_server.uri()))?;
    }
    match run_command(tool, &options.words, &mut name_server).await? {
        Ok(outcome) => output::print(&outcome, Format::Text, &mut io::stdout().lock())?,
        Err(failure) => {
            say(&failure.line())?;
            if tool == Tool::Pyro5 {
                return Err(Stop::Traceback(failure.traceback_end()));
            }
        }
    }
    if options.verbose {
        say("Done.")?;
    }
    Ok(())
}

/// Applies Pyro4's rules for the key, and then those for the command, which Pyro4 checks last.
fn with_key(mut options: Options) -> Result<Options, Stop> {
    let has_key = options.key.as_ref().is_some_and(|key| !key.is_empty());
    if has_key {
        eprintln!(
            "{}: UserWarning: using -k to supply HMAC key on the command line is a security problem \
             and is deprecated since Pyro 4.72. See the documentation for an alternative.",
            Tool::Pyro4.program()
        );
    }
    if let Some(key) = std::env::var_os("PYRO_HMAC_KEY") {
        if has_key {
            return Err(Stop::Exit(
                "error: don't use -k and PYRO_HMAC_KEY at the same time".into(),
            ));
        }
        options.key = Some(key.to_string_lossy().into_owned());
    }
    optparse::check_command(&options.words)?;
    Ok(options)
}

async fn locate(options: &Options, config: &Config) -> Result<NameServer, ClientError> {
    let port = match options.port {
        None => None,
        Some(port) => {
            let port = u16::try_from(port);
            Some(port.map_err(|_| ClientError::NotLocated { attempts: vec![] })?)
        }
    };
    let socket = options.unixsocket.as_ref().filter(|path| !path.is_empty());
    let socket = socket.map(|path| format!("./u:{path}"));
    let host = socket.as_ref().or(options.host.as_ref());
    locate_ns(host.map(String::as_str), port, config).await
}

/// Runs the command at the start of `words`. The inner error is one that the tool reports.
async fn run_command(
    tool: Tool,
    words: &[String],
    name_server: &mut NameServer,
) -> Result<Result<Outcome, Failure>, Stop> {
    let Some((command, arguments)) = words.split_first() else {
        return Err(Stop::Exit("no command".into()));
    };
    Ok(match command.as_str() {
        "ping" => Ping {}.run(name_server).await,
        "list" => {
            let prefix = arguments.first().cloned();
            List { prefix }.run(name_server).await
        }
        "listmatching" => {
            let pattern = one(arguments, "pattern")?;
            ListMatching { pattern }.run(name_server).await
        }
        "lookup" => {
            let name = one(arguments, "name")?;
            Lookup { name }.run(name_server).await
        }
        "register" => {
            let [name, uri] = arguments else {
                return Err(Stop::Exit("requires two arguments: name uri".into()));
            };
            let command = Register {
                name: name.clone(),
                uri: uri.clone(),
                replace: false,
                meta: vec![],
            };
            command.run(name_server).await
        }
        "remove" => {
            let name = one(arguments, "name")?;
            Remove { name }.run(name_server).await
        }
        "removematching" => {
            let pattern = one(arguments, "pattern")?;
            let command = RemoveMatching { pattern };
            command.run(name_server, &mut Confirm::AskOnStdout).await
        }
        "setmeta" => {
            let Some((name, tags)) = arguments.split_first() else {
                return Err(Stop::Exit(match tool {
                    Tool::Pyro4 => {
                        "requires at least 2 arguments: uri and zero or more meta tags".into()
                    }
                    Tool::Pyro5 => "requires arguments: uri and zero or more meta tags".into(),
                }));
            };
            let command = SetMetadata {
                name: name.clone(),
                tags: tags.to_vec(),
            };
            command.run(name_server).await
        }
        "listmeta_all" | "yplookup_all" => {
            let tags = some_tags(arguments)?;
            YplookupAll { tags }.run(name_server).await
        }
        "listmeta_any" | "yplookup_any" => {
            let tags = some_tags(arguments)?;
            YplookupAny { tags }.run(name_server).await
        }
        other => return Err(Stop::Exit(format!("unknown command: {other}"))),
    })
}

fn one(arguments: &[String], what: &str) -> Result<String, Stop> {
    match arguments {
        [argument] => Ok(argument.clone()),
        _ => Err(Stop::Exit(format!("requires one argument: {what}"))),
    }
}

fn some_tags(arguments: &[String]) -> Result<Vec<String>, Stop> {
    match arguments {
        [] => Err(Stop::Exit(
            "requires at least one metadata tag argument".into(),
        )),
        tags => Ok(tags.to_vec()),
    }
}
