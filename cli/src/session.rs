//! One run of `nsctl`: from the arguments to the exit code.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use hearth_cli::{
    Address, Attempt, ClientError, Cluster, Config, NameServer, Protocol, hmac_key, is_pickle,
    locate_ns,
};
use hearth_wire::{Family, admin};

use crate::args::{Cli, Format, Global};
use crate::command::Confirm;
use crate::failure::Failure;
use crate::output;

const EXIT_USAGE: u8 = 2;

/// Longest time for connecting and for each call if neither options nor environment set one. Pyro waits without
/// a limit by default, which is of no use in a script.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time for connecting to an endpoint while there are others to try.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum length of a key file in bytes, the same limit as in hearthd.
const KEY_FILE_LEN_MAX: u64 = 4096;

/// Pyro's prefix of a unix socket that is given as a host.
const UNIX_PREFIX: &str = "./u:";

/// The place of the name server.
#[derive(Debug)]
pub(crate) enum Place {
    /// These addresses, in this order.
    Endpoints(Vec<Address>),
    /// This host, which may be `./u:path`, or the places that Pyro's clients try.
    Pyro {
        /// The host, if one was given.
        host: Option<String>,
        /// The port, if one was given.
        port: Option<u16>,
    },
}

/// The effect of a command on the registry or the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The command only reads.
    Reads,
    /// The command changes something.
    Writes,
}

impl Effect {
    /// Returns true if another endpoint may be asked after this error of a call.
    fn may_ask_another(self, error: &ClientError) -> bool {
        let is_read_lost = self == Self::Reads && error.is_communication();
        is_read_lost || error.is_unserved()
    }

    /// Marks the failure of a change that may have been made.
    fn judge(self, failure: Failure) -> Failure {
        match failure {
            Failure::Call(error) if self == Self::Writes && error.is_outcome_unknown() => {
                Failure::Unknown(error)
            }
            failure => failure,
        }
    }
}

/// The settings that options and environment give for every command.
#[derive(Debug)]
pub(crate) struct Session {
    /// The place of the name server.
    pub(crate) place: Place,
    /// The settings for finding and calling it.
    pub(crate) config: Config,
    /// The output format.
    pub(crate) format: Format,
    /// Keys of the cluster; one of them is proved before a change.
    cluster_keys: Vec<Vec<u8>>,
    yes: bool,
    verbose: bool,
}

/// Runs the command and reports its result.
pub(crate) async fn run(cli: Cli, matches: &ArgMatches) -> ExitCode {
    let session = match Session::new(&cli.global, matches) {
        Ok(session) => session,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("error: {mistake}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match session.carry_out(cli.command).await {
        Ok(exit_code) => ExitCode::from(exit_code),
        // The reader of the output has seen enough.
        Err(Failure::Io(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.line());
            eprintln!("hint: {}", failure.hint());
            ExitCode::from(failure.exit_code())
        }
    }
}

impl Session {
    /// Checks the options against each other and adds the settings of the environment.
    fn new(global: &Global, matches: &ArgMatches) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut config = Config::from_env().unwrap_or_else(|errors| {
            mistakes.extend(errors.iter().map(ToString::to_string));
            Config::default()
        });
        let connect = &mut config.connect;
        connect.protocol = global.protocol.into();
        if let Some(serializer) = global.serializer {
            connect.serializer = serializer.into();
        }
        let timeout = global.timeout.or(connect.timeout);
        connect.timeout = Some(timeout.unwrap_or(DEFAULT_TIMEOUT)).filter(|time| !time.is_zero());
        if let Some(key) = &global.key {
            if env::var_os("PYRO_HMAC_KEY").is_some() {
                mistakes.push("don't use -k and PYRO_HMAC_KEY at the same time".into());
            }
            if connect.protocol == Protocol::Only(Family::Pyro5) {
                mistakes.push("-k needs Pyro4: the Pyro5 protocol has no signatures".into());
            }
            connect.hmac_key = hmac_key(key);
        }
        let is_one_place =
            global.host.is_some() || global.unixsocket.is_some() || global.port.is_some();
        let endpoints_are_typed =
            matches.value_source("endpoints") == Some(ValueSource::CommandLine);
        if is_one_place && endpoints_are_typed {
            mistakes.push("--endpoints cannot be used with -n, -p or -u".into());
        }
        let place = if is_one_place || global.endpoints.is_empty() {
            let socket = global.unixsocket.as_ref();
            let socket = socket.map(|path| format!("{UNIX_PREFIX}{path}"));
            Place::Pyro {
                host: socket.or_else(|| global.host.clone()),
                port: global.port,
            }
        } else {
            Place::Endpoints(global.endpoints.clone())
        };
        let cluster_keys = match global.cluster_key_file.as_deref().map(read_keys) {
            Some(Ok(keys)) => keys,
            Some(Err(mistake)) => {
                mistakes.push(format!("--cluster-key-file: {mistake}"));
                Vec::new()
            }
            None => Vec::new(),
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        if global.verbose
            && global.serializer.is_none()
            && let Ok(name) = env::var("PYRO_SERIALIZER")
            && is_pickle(&name)
        {
            eprintln!(
                "note: PYRO_SERIALIZER={name} is for programs that trust each other; nsctl uses serpent \
                 (--serializer changes that)"
            );
        }
        Ok(Self {
            place,
            config,
            format: global.output,
            cluster_keys,
            yes: global.yes,
            verbose: global.verbose,
        })
    }

    async fn carry_out(&self, command: crate::command::Command) -> Result<u8, Failure> {
        let outcome = command.run(self).await?;
        output::print(&outcome, self.format, &mut io::stdout().lock())?;
        self.say("Done.")?;
        Ok(outcome.exit_code())
    }

    /// Finds the name server and connects to it.
    pub(crate) async fn locate(&self) -> Result<NameServer, Failure> {
        self.on_name_server(Effect::Reads, async |_| Ok(()))
            .await
            .map(|(name_server, ())| name_server)
    }

    /// Runs `work` on the name server. If there are several endpoints, each is tried in turn, until one has
    /// done the work or may have done it: a change whose outcome is unknown is never requested again.
    pub(crate) async fn on_name_server<T>(
        &self,
        effect: Effect,
        mut work: impl AsyncFnMut(&mut NameServer) -> Result<T, Failure>,
    ) -> Result<(NameServer, T), Failure> {
        self.say("Locating name server...")?;
        let endpoints = match &self.place {
            Place::Pyro { host, port } => {
                let found = locate_ns(host.as_deref(), *port, &self.config).await;
                let mut name_server = found.map_err(Failure::Locate)?;
                self.say(&format!("Name server found: {}", name_server.uri()))?;
                // A name server found by broadcast is not connected yet.
                name_server.connection().await?;
                let done = work(&mut name_server).await;
                return match done.map_err(|failure| effect.judge(failure)) {
                    Ok(done) => Ok((name_server, done)),
                    Err(failure) => Err(failure),
                };
            }
            Place::Endpoints(endpoints) => endpoints,
        };
        let mut attempts = Vec::new();
        let mut refusal = None;
        for (index, address) in endpoints.iter().enumerate() {
            let is_last = index + 1 == endpoints.len();
            let mut name_server = match self.connect(address, is_last).await {
                Ok(name_server) => name_server,
                Err(error) => {
                    attempts.push(Attempt::Connect {
                        address: address.clone(),
                        error: Box::new(error),
                    });
                    continue;
                }
            };
            self.say(&format!("Name server found: {}", name_server.uri()))?;
            match work(&mut name_server).await {
                Ok(done) => return Ok((name_server, done)),
                Err(Failure::Call(error)) if effect.may_ask_another(&error) => {
                    self.say(&format!("{address}: {error}"))?;
                    refusal = Some(error);
                }
                Err(Failure::NotHealthy) => {}
                Err(failure) => return Err(effect.judge(failure)),
            }
        }
        Err(match refusal {
            Some(error) => Failure::Call(error),
            None => Failure::Locate(ClientError::NotLocated { attempts }),
        })
    }

    /// Connects to one endpoint. A hanging node must not keep the others from being tried.
    async fn connect(&self, address: &Address, is_last: bool) -> Result<NameServer, ClientError> {
        let connecting = NameServer::connect(address, &self.config.connect);
        if is_last {
            return connecting.await;
        }
        let in_time = tokio::time::timeout(ENDPOINT_TIMEOUT, connecting).await;
        in_time.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                address: address.clone(),
                waited: ENDPOINT_TIMEOUT,
            })
        })
    }

    /// Runs `work` on the cluster of the name server, with the rules of [`Session::on_name_server`].
    pub(crate) async fn on_cluster<T>(
        &self,
        effect: Effect,
        mut work: impl AsyncFnMut(&mut Cluster<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let work = async |name_server: &mut NameServer| {
            let mut cluster = Cluster::on(name_server.connection().await?);
            if effect == Effect::Writes {
                // Nothing has been changed yet, even if the connection is lost here.
                let proved = cluster.prove(&self.cluster_keys).await;
                proved.map_err(|error| match error.is_communication() {
                    true => Failure::Locate(error),
                    false => Failure::Call(error),
                })?;
            }
            work(&mut cluster).await
        };
        let (_, done) = self.on_name_server(effect, work).await?;
        Ok(done)
    }

    /// Runs `work` as [`Session::on_cluster`] does, for reads that are allowed for administrators only.
    pub(crate) async fn on_cluster_as_admin<T>(
        &self,
        mut work: impl AsyncFnMut(&mut Cluster<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let work = async |cluster: &mut Cluster<'_>| {
            cluster.prove(&self.cluster_keys).await?;
            work(cluster).await
        };
        self.on_cluster(Effect::Reads, work).await
    }

    /// The form of confirmation for a command that removes many entries. A question on standard output would
    /// spoil a JSON document.
    pub(crate) fn confirm(&self) -> Confirm {
        match (self.yes, self.format) {
            (true, _) => Confirm::Assumed,
            (false, Format::Json) => Confirm::AskOnStderr,
            (false, Format::Text | Format::Table) => Confirm::AskOnStdout,
        }
    }

    /// Prints a line if `-v` is given. The original tools print such lines on standard output.
    fn say(&self, line: &str) -> io::Result<()> {
        match (self.verbose, self.format) {
            (false, _) => Ok(()),
            (true, Format::Text) => output::line(line, &mut io::stdout().lock()),
            (true, Format::Table | Format::Json) => output::line(line, &mut io::stderr().lock()),
        }
    }
}

/// Reads the keys in a cluster key file.
fn read_keys(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let path_text = path.display();
    let unreadable = |error: io::Error| format!("{path_text} cannot be read: {error}");
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEY_FILE_LEN_MAX + 1).read_to_end(&mut content))
        .map_err(unreadable)?;
    if content.len() as u64 > KEY_FILE_LEN_MAX {
        return Err(format!(
            "{path_text} has more than {KEY_FILE_LEN_MAX} bytes; is it the right file?"
        ));
    }
    let keys = admin::keys_of_file(&content);
    if !(1..=admin::KEY_COUNT_MAX).contains(&keys.len()) {
        return Err(format!(
            "{path_text} holds {} keys, one a line; 1 to {} are meant",
            keys.len(),
            admin::KEY_COUNT_MAX
        ));
    }
    Ok(keys.into_iter().map(<[u8]>::to_vec).collect())
}
