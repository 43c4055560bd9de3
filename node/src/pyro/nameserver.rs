//! The object `Pyro.NameServer`: arguments → [`Query`] or [`Command`], [`Answer`] or [`Reply`] → result
//! or exception.
//!
//! The rules of the name space are the registry's. Here is what Pyro's own methods add: which arguments
//! they take, in which order they check them, what they answer in each family, and the entry
//! `Pyro.NameServer`, which every node answers for itself and which no command reaches.

use std::time::{Duration, Instant};

use hearth_raft::{COMMAND_LEN_MAX, Replica, WriteError};
use hearth_storage::pattern::STEP_COUNT_MAX;
use hearth_storage::{
    Answer, Bounds, Command, Entry, Filter, IfTaken, ListRefusal, Name, Pattern, Query, Refusal,
    Reply, Revision, Steps, Tags,
};
use hearth_wire::{DecodeError, Exception, Family, NamingErrorKind, PyroClass, Uri, Value};

use super::arguments::Arguments;
use super::config::FrontConfig;
use super::listing::{
    INLINE_LEN_MAX, Listing, Selection, entry_len, list_refusal, looked_up, pattern_refusal,
    removal_refusal, store_failure, unexpected, unknown_name,
};
use super::object::{Method, NAME_SERVER};
use super::presence::Presence;
use super::python;
use super::reads::ReadPolicy;
use super::work::HeavyWork;

/// A list of at most so many entries is put together where it was asked for; what is larger, or needs
/// a pattern, would keep a reactor thread from its other clients.
const INLINE_ENTRY_COUNT_MAX: u64 = 100;

/// Bytes of the names that one removal by pattern may have.
const REMOVAL_LEN_MAX: usize = 32 << 20;

/// A pattern's own text comes on top, and it is not long.
const _: () = assert!(REMOVAL_LEN_MAX + (1 << 20) <= COMMAND_LEN_MAX);

/// What a registration may take in the index by tag, in multiples of what it may have itself.
const INDEX_GROWTH_MAX: usize = 16;

/// How long a removal by pattern waits before it is proposed again because names came: at first, and at most.
const CHANGED_PAUSE_MIN: Duration = Duration::from_millis(1);
const CHANGED_PAUSE_MAX: Duration = Duration::from_millis(100);

/// The name server as one family's clients see it.
pub(super) struct NameServer<'a> {
    pub family: Family,
    pub config: &'a FrontConfig,
    pub replica: &'a Replica,
    pub reads: &'a ReadPolicy,
    pub patterns: &'a HeavyWork,
    /// The client that calls.
    pub presence: &'a Presence,
}

/// What a method came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The result.
    Value(Value),
    /// A list, or what else is large, that is still to be made, away from the reactor.
    Later(Listing),
}

/// A call of a method that changes the registry, after its arguments were checked.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing is to be changed; the result is known.
    Value(Value),
    /// A command, and the meaning of its reply.
    Change(Command, Then),
    /// The call fails either way; the exception depends on whether the name is registered.
    Fail {
        name: Name,
        if_registered: Exception,
        otherwise: Exception,
    },
    /// A removal that takes more than one command.
    Remove {
        name: Value,
        prefix: Value,
        regex: Value,
    },
}

/// The meaning of the reply to a command.
#[derive(Debug)]
pub(super) enum Then {
    /// That of a registration that replaces.
    Registered,
    /// That of a registration that is refused if this name is taken.
    RegisteredUnlessTaken(Name),
    /// That of new metadata for this name.
    MetadataSet(Name),
    /// That of a removal, whose result is a count.
    Removed,
}

impl Then {
    /// Returns false if the registry never refuses the command. (A removal with this meaning is one of a single name.)
    pub(super) fn may_be_refused(&self) -> bool {
        match self {
            Self::Registered | Self::Removed => false,
            Self::RegisteredUnlessTaken(_) | Self::MetadataSet(_) => true,
        }
    }

    /// Turns the reply into the method's result.
    ///
    /// # Errors
    /// The exception that the original raises.
    pub(super) fn finish(self, reply: Reply) -> Result<Value, Exception> {
        match (self, reply) {
            (Self::Removed, Reply::Removed(count)) => Ok(int(count)),
            (Self::Removed, Reply::Refused(refusal)) => Err(removal_refusal(&refusal)),
            (Self::Removed, Reply::Done) => Ok(int(0)),
            (Self::RegisteredUnlessTaken(name), Reply::Refused(_)) => {
                Err(already_registered(&name))
            }
            (Self::MetadataSet(name), Reply::Refused(_)) => Err(unknown_name(&name)),
            _ => Ok(Value::None),
        }
    }
}

impl NameServer<'_> {
    /// Runs a method on arguments that were bound to its signature.
    ///
    /// # Errors
    /// The exception that the original raises.
    pub(super) async fn call(
        &self,
        method: Method,
        arguments: &mut Arguments,
    ) -> Result<Outcome, Exception> {
        match method {
            Method::Lookup => self.lookup(arguments).await,
            Method::Count => self.count().await.map(Outcome::Value),
            Method::List if self.family == Family::Pyro4 => self.list_pyro4(arguments).await,
            Method::List => self.list_pyro5(arguments).await,
            Method::Yplookup => self.yplookup(arguments).await,
            // The future of a write is large, and a connection that only looks up never needs it.
            Method::Register | Method::SetMetadata | Method::Remove => {
                let plan = self.plan(method, arguments)?;
                Box::pin(self.carry_out(plan)).await.map(Outcome::Value)
            }
            _ => Ok(Outcome::Value(Value::None)),
        }
    }

    /// Checks the arguments of a method that changes the registry.
    ///
    /// # Errors
    /// The exception that the original raises.
    pub(super) fn plan(
        &self,
        method: Method,
        arguments: &mut Arguments,
    ) -> Result<Plan, Exception> {
        match method {
            Method::Register => self.plan_register(arguments),
            Method::SetMetadata => self.plan_set_metadata(arguments),
            Method::Remove => self.plan_remove(arguments),
            _ => Ok(Plan::Value(Value::None)),
        }
    }

    /// Carries out a plan and returns the method's result.
    ///
    /// # Errors
    /// The exception that the original raises.
    pub(super) async fn carry_out(&self, plan: Plan) -> Result<Value, Exception> {
        match plan {
            Plan::Value(value) => Ok(value),
            Plan::Change(command, then) => then.finish(self.write(command).await?),
            Plan::Fail {
                name,
                if_registered,
                otherwise,
            } => Err(if self.exists(&name).await? {
                if_registered
            } else {
                otherwise
            }),
            Plan::Remove {
                name,
                prefix,
                regex,
            } => self.remove(name, prefix, regex).await,
        }
    }

    /// Carries out commands, one after the other. Returns the replies of those that were applied, and the exception
    /// of the next one.
    pub(super) async fn write_all(
        &self,
        commands: Vec<Command>,
    ) -> (Vec<Reply>, Option<Exception>) {
        let deadline = Instant::now() + self.config.write_deadline;
        let (replies, error) = self.replica.write_all(commands, deadline).await;
        (replies, error.map(|error| write_failure(&error)))
    }

    async fn lookup(&self, arguments: &mut Arguments) -> Result<Outcome, Exception> {
        let name = arguments.required(0);
        let with_tags = arguments.flag(1, false);
        let name = match name {
            Value::Str(name) => name,
            // No store holds such a name.
            Value::SurrogateStr(points) => return Err(unknown_surrogate_name(&points)),
            other => {
                python::check_hashable(&other)?;
                return Err(Exception::type_error(format!(
                    "can only concatenate str (not \"{}\") to str",
                    other.type_name()
                )));
            }
        };
        let entry = if name == NAME_SERVER {
            if !with_tags {
                let uri = self.config.ns_uri.clone();
                return Ok(Outcome::Value(Value::Uri(Box::new(uri))));
            }
            self.own_entry().1
        } else {
            let query = Query::Lookup(name);
            let answer = self.ask(&query).await?;
            let Query::Lookup(name) = query else {
                return Err(unexpected(&answer));
            };
            match answer {
                // It is read again when it is its turn: many clients that ask for much hold nothing meanwhile.
                Answer::Entry(Some(entry)) if entry_len(&entry) > INLINE_LEN_MAX => {
                    let ns_port = self.config.ns_port;
                    let one = Selection::One { name, ns_port };
                    return Ok(Outcome::Later(self.later(one, with_tags)));
                }
                Answer::Entry(Some(entry)) => entry,
                _ => return Err(unknown_name(&name)),
            }
        };
        looked_up(entry, with_tags, self.family, self.config.ns_port).map(Outcome::Value)
    }

    async fn exists(&self, name: &str) -> Result<bool, Exception> {
        if name == NAME_SERVER {
            return Ok(true);
        }
        let answer = self.ask(&Query::Lookup(name.to_owned())).await?;
        Ok(matches!(answer, Answer::Entry(Some(_))))
    }

    async fn count(&self) -> Result<Value, Exception> {
        match self.ask(&Query::Count).await? {
            // The name server counts itself.
            Answer::Count(count) => Ok(int(count.saturating_add(1))),
            other => Err(unexpected(&other)),
        }
    }

    fn plan_register(&self, arguments: &mut Arguments) -> Result<Plan, Exception> {
        let name = arguments.required(0);
        let uri = self.uri_text(arguments.required(1))?;
        let if_taken = if arguments.flag(2, false) {
            IfTaken::Refuse
        } else {
            IfTaken::Replace
        };
        let name = name_text(name)?;
        let tags = self.tags(arguments.or_none(3))?;
        // A tag that cannot be kept is only noticed where the original would store it: after it has
        // looked whether the name is taken.
        let (name, tags) = match (name, tags) {
            (Ok(name), Ok(tags)) => (name, tags),
            (Ok(name), Err(bad_tag)) if if_taken == IfTaken::Refuse => {
                return Ok(Plan::Fail {
                    if_registered: already_registered(&name),
                    otherwise: bad_tag,
                    name,
                });
            }
            (Ok(_), Err(bad_tag)) => return Err(bad_tag),
            (Err(bad_name), _) => return Err(bad_name),
        };
        if name == NAME_SERVER {
            return match if_taken {
                IfTaken::Refuse => Err(already_registered(&name)),
                IfTaken::Replace => Ok(Plan::Value(Value::None)),
            };
        }
        self.check_registration_len(&name, uri.len(), &tags)?;
        let then = match if_taken {
            IfTaken::Refuse => Then::RegisteredUnlessTaken(name.clone()),
            IfTaken::Replace => Then::Registered,
        };
        let command = Command::Register {
            name,
            uri,
            tags,
            if_taken,
        };
        Ok(Plan::Change(command, then))
    }

    /// Refuses a registration that is too large, as a message is refused that is too long. Every tag's record in
    /// the index repeats the name, so a long name with many tags costs far more than its message: that product
    /// has a limit as well.
    fn check_registration_len(
        &self,
        name: &str,
        uri_len: usize,
        tags: &Tags,
    ) -> Result<(), Exception> {
        let max = self.config.registration_len_max;
        let tags_len: usize = tags.iter().map(String::len).sum();
        let index_len = tags.len().saturating_mul(name.len()) + tags_len;
        let (len, max, what) = if name.len() + uri_len + tags_len > max {
            let what = "name, URI and metadata of a registration together";
            (name.len() + uri_len + tags_len, max, what)
        } else if index_len > max.saturating_mul(INDEX_GROWTH_MAX) {
            let what = "metadata of a registration, with its name once for each tag";
            (index_len, max.saturating_mul(INDEX_GROWTH_MAX), what)
        } else {
            return Ok(());
        };
        let family = self.family;
        let len = len as u64;
        Err(Exception::pyro(
            PyroClass::MessageTooLargeError,
            format!(
                "{}: {what}; {} of the server sets the limit",
                DecodeError::TooLarge { family, len, max },
                self.config.registration_limit_option
            ),
        ))
    }

    /// The text that is stored for a `uri` argument.
    fn uri_text(&self, uri: Value) -> Result<String, Exception> {
        match uri {
            Value::Uri(uri) => Ok(uri.to_string()),
            Value::Str(text) => match Uri::parse(&text, self.config.ns_port) {
                Ok(_) => Ok(text),
                Err(error) => Err(Exception::pyro(PyroClass::PyroError, error.to_string())),
            },
            Value::SurrogateStr(points) => Err(python::surrogates_not_allowed(points)),
            _ => Err(Exception::type_error(
                "only URIs or strings can be registered",
            )),
        }
    }

    /// The tags that a `metadata` argument stands for. The inner error is one that the original notices
    /// later, when it stores them.
    fn tags(&self, metadata: Value) -> Result<Result<Tags, Exception>, Exception> {
        match metadata {
            Value::None => return Ok(Ok(Tags::new())),
            Value::Str(_) | Value::SurrogateStr(_) => return Err(text_for_tags("metadata")),
            _ => {}
        }
        let is_truthy = metadata.is_truthy();
        let items = match (python::iterate(metadata), self.family) {
            (Ok(items), _) => items,
            (Err(value), _) if is_truthy => return Err(python::not_iterable(&value)),
            // Pyro4 takes 0 and False for no tags; Pyro5 stumbles over them when it stores them.
            (Err(_), Family::Pyro4) => return Ok(Ok(Tags::new())),
            (Err(value), Family::Pyro5) => return Ok(Err(python::not_iterable(&value))),
        };
        self.check_item_count("metadata tags", items.len())?;
        Ok(items.into_iter().map(tag_text).collect())
    }

    fn plan_set_metadata(&self, arguments: &mut Arguments) -> Result<Plan, Exception> {
        let name = name_text(arguments.required(0))?;
        let tags = self.tags(arguments.required(1))?;
        let (name, tags) = match (name, tags) {
            (Ok(name), Ok(tags)) => (name, tags),
            (Ok(name), Err(bad_tag)) => {
                return Ok(Plan::Fail {
                    if_registered: bad_tag,
                    otherwise: unknown_name(&name),
                    name,
                });
            }
            (Err(bad_name), _) => return Err(bad_name),
        };
        if name == NAME_SERVER {
            return Ok(Plan::Value(Value::None));
        }
        self.check_registration_len(&name, 0, &tags)?;
        let command = Command::SetMetadata {
            name: name.clone(),
            tags,
        };
        Ok(Plan::Change(command, Then::MetadataSet(name)))
    }

    fn plan_remove(&self, arguments: &mut Arguments) -> Result<Plan, Exception> {
        let name = arguments.or_none(0);
        let prefix = arguments.or_none(1);
        let regex = arguments.or_none(2);
        Ok(match name {
            Value::Str(name)
                if !name.is_empty()
                    && name != NAME_SERVER
                    && !prefix.is_truthy()
                    && !regex.is_truthy() =>
            {
                Plan::Change(Command::Remove { name }, Then::Removed)
            }
            name => Plan::Remove {
                name,
                prefix,
                regex,
            },
        })
    }

    async fn remove(&self, name: Value, prefix: Value, regex: Value) -> Result<Value, Exception> {
        if name.is_truthy() {
            python::check_hashable(&name)?;
            let is_own = name.as_str() == Some(NAME_SERVER);
            let removed_count = match name {
                Value::Str(name) if !is_own => self.removed(Command::Remove { name }).await?,
                _ => 0,
            };
            // Pyro4 goes on to the other arguments when the name was not there; Pyro5 does so for its
            // own name only.
            if removed_count > 0 || (self.family == Family::Pyro5 && !is_own) {
                return Ok(int(removed_count));
            }
        }
        if prefix.is_truthy() {
            return match self.prefixes(prefix)? {
                prefixes if prefixes.is_empty() => Ok(int(0)),
                prefixes => self
                    .removed(Command::RemovePrefix { prefixes })
                    .await
                    .map(int),
            };
        }
        if regex.is_truthy() {
            let pattern = pattern_text(regex)?;
            return self.remove_matching(pattern).await.map(int);
        }
        Ok(int(0))
    }

    async fn removed(&self, command: Command) -> Result<u64, Exception> {
        match self.write(command).await? {
            Reply::Removed(count) => Ok(count),
            Reply::Refused(refusal) => Err(removal_refusal(&refusal)),
            Reply::Done => Ok(0),
        }
    }

    /// Removes all names that a pattern matches, in one step. This node tries the pattern on its own copy, where
    /// that holds up nobody, and proposes the names that it found; where names came meanwhile, those are tried,
    /// too, and it proposes again.
    async fn remove_matching(&self, pattern: String) -> Result<u64, Exception> {
        let deadline = Instant::now() + self.config.write_deadline;
        let parsing = move |_: &Presence| Pattern::parse(&pattern);
        let parsed = self.patterns.run_for(self.presence, parsing).await;
        let pattern = parsed.map_err(pattern_refusal)?;
        if let Some(prefix) = pattern.as_prefix() {
            let prefixes = vec![prefix.to_owned()];
            return self.removed(Command::RemovePrefix { prefixes }).await;
        }
        let names_are_known_to_all = self.replica.rules().map_err(store_failure)? >= 2;
        let prefix = pattern.literal_prefix().to_owned();
        let mut names = Vec::new();
        let mut since = None;
        let mut pause = CHANGED_PAUSE_MIN;
        loop {
            let (found, as_of) = self.matching(&pattern, since).await?;
            names.extend(found);
            if since.is_some() {
                // One that went and came back is there twice.
                names.sort_unstable();
                names.dedup();
                check_removal_len(&names)?;
            }
            let command = if names_are_known_to_all {
                Command::RemoveListed {
                    names: names.clone(),
                    prefix: prefix.clone(),
                    as_of,
                }
            } else {
                // A node of an earlier version cannot read the other command. Each will try the pattern, which
                // has just been shown to cost little.
                let pattern = pattern.source().to_owned();
                Command::RemoveRegex { pattern }
            };
            match self.write_until(command, deadline).await? {
                Reply::Refused(Refusal::Changed) => since = Some(as_of),
                Reply::Removed(count) => return Ok(count),
                Reply::Refused(refusal) => return Err(removal_refusal(&refusal)),
                Reply::Done => return Ok(0),
            }
            if Instant::now() + pause >= deadline {
                let detail = format!(
                    "names beginning with {:?} were registered all the time, so that a removal by pattern \
                     found no moment within {:?}",
                    prefix.chars().take(40).collect::<String>(),
                    self.config.write_deadline
                );
                return Err(Exception::naming_of(
                    NamingErrorKind::NothingChanged,
                    detail,
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CHANGED_PAUSE_MAX);
        }
    }

    /// The names that a pattern matches, of those created after `since`, and of when that is.
    async fn matching(
        &self,
        pattern: &Pattern,
        since: Option<Revision>,
    ) -> Result<(Vec<Name>, Revision), Exception> {
        let (replica, pattern) = (self.replica.clone(), pattern.clone());
        let steps = match since {
            None => Steps::default(),
            Some(_) => Steps::new(STEP_COUNT_MAX / 16),
        };
        let look = move |presence: &Presence| {
            let bounds = Bounds {
                len_max: REMOVAL_LEN_MAX,
                steps,
                is_given_up: &|| presence.is_gone(),
            };
            replica.matching(&pattern, since, bounds)
        };
        let found = self.patterns.run_for(self.presence, look).await;
        found
            .map_err(store_failure)?
            .map_err(|refusal| match refusal {
                ListRefusal::TooLong { count, .. } => too_many_to_remove(count),
                other => list_refusal(other),
            })
    }

    async fn list_pyro4(&self, arguments: &mut Arguments) -> Result<Outcome, Exception> {
        let filters = [0, 1, 2, 3].map(|index| arguments.or_none(index));
        let with_tags = arguments.flag(4, false);
        // Pyro4 counts what is not None, empty filters included.
        if filters.iter().filter(|f| **f != Value::None).count() > 1 {
            return Err(Exception::value_error(
                "you can only filter on one thing at a time",
            ));
        }
        let [prefix, regex, metadata_all, metadata_any] = filters;
        let selection = if metadata_all.is_truthy() {
            Selection::Filter(self.all_tags(metadata_all)?)
        } else if metadata_any.is_truthy() {
            Selection::Filter(self.any_tags(metadata_any)?)
        } else {
            self.by_name(prefix, regex)?
        };
        self.listing(selection, with_tags).await
    }

    async fn list_pyro5(&self, arguments: &mut Arguments) -> Result<Outcome, Exception> {
        let prefix = arguments.or_none(0);
        let regex = arguments.or_none(1);
        let with_tags = arguments.flag(2, false);
        if prefix.is_truthy() && regex.is_truthy() {
            return Err(Exception::value_error(
                "you can only filter on one thing at a time",
            ));
        }
        self.listing(self.by_name(prefix, regex)?, with_tags).await
    }

    async fn yplookup(&self, arguments: &mut Arguments) -> Result<Outcome, Exception> {
        let meta_all = arguments.or_none(0);
        let meta_any = arguments.or_none(1);
        let with_tags = arguments.flag(2, true);
        let filter = match (meta_all.is_truthy(), meta_any.is_truthy()) {
            (true, true) => {
                return Err(Exception::value_error(
                    "you can't use meta_all or meta_any at the same time",
                ));
            }
            (true, false) => self.all_tags(meta_all)?,
            (false, true) => self.any_tags(meta_any)?,
            (false, false) => return Ok(Outcome::Value(Value::Dict(Vec::new()))),
        };
        self.listing(Selection::Filter(filter), with_tags).await
    }

    /// A filter by name; empty filters let everything through.
    fn by_name(&self, prefix: Value, regex: Value) -> Result<Selection, Exception> {
        Ok(if prefix.is_truthy() {
            Selection::Filter(Filter::Prefix(self.prefixes(prefix)?))
        } else if regex.is_truthy() {
            Selection::Regex(pattern_text(regex)?)
        } else {
            Selection::Filter(Filter::All)
        })
    }

    /// What `str.startswith` accepts. Prefixes that no name can have are left out.
    fn prefixes(&self, prefix: Value) -> Result<Vec<String>, Exception> {
        match prefix {
            Value::Str(prefix) => Ok(vec![prefix]),
            Value::SurrogateStr(_) => Ok(Vec::new()),
            Value::Tuple(items) => {
                self.check_item_count("prefixes", items.len())?;
                let mut prefixes = Vec::with_capacity(items.len());
                for item in items {
                    match item {
                        Value::Str(prefix) => prefixes.push(prefix),
                        Value::SurrogateStr(_) => {}
                        other => {
                            return Err(Exception::type_error(format!(
                                "tuple for startswith must only contain str, not {}",
                                other.type_name()
                            )));
                        }
                    }
                }
                Ok(prefixes)
            }
            // An extension that Pyro4 does not read arrives as a named tuple.
            Value::Object(object) if object.type_name == "ExtType" => self.prefixes(object.state),
            other => Err(Exception::type_error(format!(
                "startswith first arg must be str or a tuple of str, not {}",
                other.type_name()
            ))),
        }
    }

    fn all_tags(&self, tags: Value) -> Result<Filter, Exception> {
        let (tags, has_foreign) = self.filter_tags("metadata_all", tags)?;
        Ok(if has_foreign {
            Filter::TagsAny(Vec::new())
        } else {
            Filter::TagsAll(tags)
        })
    }

    fn any_tags(&self, tags: Value) -> Result<Filter, Exception> {
        let (tags, _) = self.filter_tags("metadata_any", tags)?;
        Ok(Filter::TagsAny(tags))
    }

    /// The texts among the tags of a filter, and whether there were others, which no entry has.
    fn filter_tags(&self, parameter: &str, tags: Value) -> Result<(Vec<String>, bool), Exception> {
        if matches!(tags, Value::Str(_) | Value::SurrogateStr(_)) {
            return Err(text_for_tags(parameter));
        }
        let items = python::iterate(tags).map_err(|value| python::not_iterable(&value))?;
        self.check_item_count("metadata tags", items.len())?;
        let mut texts = Vec::with_capacity(items.len());
        let mut has_foreign = false;
        for item in items {
            python::check_hashable(&item)?;
            match item {
                Value::Str(tag) => texts.push(tag),
                _ => has_foreign = true,
            }
        }
        Ok((texts, has_foreign))
    }

    fn check_item_count(&self, what: &str, count: usize) -> Result<(), Exception> {
        let max = self.config.call_item_count_max;
        if count > max {
            return Err(Exception::value_error(format!(
                "too many {what} in one call ({count}, max={max})"
            )));
        }
        Ok(())
    }

    async fn listing(&self, selection: Selection, with_tags: bool) -> Result<Outcome, Exception> {
        self.reads.admit(self.replica).await?;
        let listing = self.later(selection, with_tags);
        let is_cheap = match listing.selection {
            Selection::Regex(_) | Selection::One { .. } => false,
            Selection::Filter(_) => match self.replica.answer(&Query::Count) {
                Ok(Answer::Count(count)) => count <= INLINE_ENTRY_COUNT_MAX,
                _ => false,
            },
        };
        if is_cheap && let Some(list) = listing.make_if_short(self.presence)? {
            return Ok(Outcome::Value(list));
        }
        Ok(Outcome::Later(listing))
    }

    fn later(&self, selection: Selection, with_tags: bool) -> Listing {
        Listing {
            replica: self.replica.clone(),
            selection,
            with_tags,
            own: self.own_entry(),
            family: self.family,
            len_max: self.config.list_len_max,
        }
    }

    /// This node's entry for itself, as this family's clients expect it.
    fn own_entry(&self) -> (Name, Entry) {
        let class = match self.family {
            Family::Pyro4 => "class:Pyro4.naming.NameServer",
            Family::Pyro5 => "class:Pyro5.nameserver.NameServer",
        };
        let entry = Entry {
            uri: self.config.ns_uri.to_string(),
            tags: Tags::from([class.to_owned()]),
            revision: Revision::default(),
            created: Revision::default(),
        };
        (NAME_SERVER.to_owned(), entry)
    }

    async fn ask(&self, query: &Query) -> Result<Answer, Exception> {
        self.reads.admit(self.replica).await?;
        self.replica.answer(query).map_err(store_failure)
    }

    async fn write(&self, command: Command) -> Result<Reply, Exception> {
        let deadline = Instant::now() + self.config.write_deadline;
        self.write_until(command, deadline).await
    }

    async fn write_until(&self, command: Command, deadline: Instant) -> Result<Reply, Exception> {
        self.replica
            .write(command, deadline)
            .await
            .map_err(|error| write_failure(&error))
    }
}

/// Refuses a removal that no log entry should carry.
fn check_removal_len(names: &[Name]) -> Result<(), Exception> {
    // A name's length is counted in one byte to five.
    let len: usize = names.iter().map(|name| name.len() + 5).sum();
    if len <= REMOVAL_LEN_MAX {
        return Ok(());
    }
    Err(too_many_to_remove(names.len()))
}

fn too_many_to_remove(count: usize) -> Exception {
    let detail = format!(
        "the pattern matches {count} names or more, of more than {REMOVAL_LEN_MAX} bytes, which is too much for \
         one removal by pattern; remove them by prefix, or with patterns that match fewer"
    );
    Exception::naming_of(NamingErrorKind::NothingChanged, detail)
}

/// The exception for a change that has no reply. Programs go by how its text begins: after `no quorum: ` and
/// `nothing was changed: ` they may try again anywhere, after `outcome unknown: ` they must look first.
fn write_failure(error: &WriteError) -> Exception {
    match error {
        WriteError::NotProposed(reason) | WriteError::DiskFull(reason) => {
            Exception::naming_of(NamingErrorKind::NothingChanged, reason)
        }
        WriteError::NoQuorum(reason) => Exception::naming_of(NamingErrorKind::NoQuorum, reason),
        WriteError::Unknown(reason) => {
            Exception::naming_of(NamingErrorKind::OutcomeUnknown, reason)
        }
        // Says least.
        other => Exception::naming_of(NamingErrorKind::OutcomeUnknown, other),
    }
}

/// One element of a `metadata` argument.
fn tag_text(tag: Value) -> Result<String, Exception> {
    match tag {
        Value::Str(tag) => Ok(tag),
        Value::SurrogateStr(points) => Err(python::surrogates_not_allowed(points)),
        other => {
            python::check_hashable(&other)?;
            Err(Exception::type_error(format!(
                "metadata tags must be str, not {}",
                other.type_name()
            )))
        }
    }
}

/// A `name` argument of a method that changes something. The inner error is one that the original
/// notices later, when it stores the name.
fn name_text(name: Value) -> Result<Result<Name, Exception>, Exception> {
    match name {
        Value::Str(name) => Ok(Ok(name)),
        Value::SurrogateStr(points) => Ok(Err(python::surrogates_not_allowed(points))),
        _ => Err(Exception::type_error("name must be a str")),
    }
}

/// What `re.compile` accepts.
fn pattern_text(regex: Value) -> Result<String, Exception> {
    match regex {
        Value::Str(pattern) => Ok(pattern),
        Value::SurrogateStr(points) => Err(python::surrogates_not_allowed(points)),
        Value::Bytes(_) => Err(Exception::type_error(
            "cannot use a bytes pattern on a string-like object",
        )),
        other => {
            python::check_hashable(&other)?;
            Err(Exception::type_error(
                "first argument must be string or compiled pattern",
            ))
        }
    }
}

fn int(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn text_for_tags(parameter: &str) -> Exception {
    Exception::type_error(format!(
        "{parameter} should not be a str, but another iterable (set, list, etc)"
    ))
}

fn unknown_surrogate_name(points: &[u32]) -> Exception {
    let text = NamingErrorKind::UnknownName.prefix().chars().map(u32::from);
    let mut exception = Exception::naming("");
    exception.args = vec![Value::SurrogateStr(
        text.chain(points.iter().copied()).collect(),
    )];
    exception
}

fn already_registered(name: &str) -> Exception {
    Exception::naming_of(NamingErrorKind::NameTaken, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_says_whether_it_may_be_tried_again() {
        for (error, expected) in [
            (
                WriteError::NotProposed("x".into()),
                "nothing was changed: x",
            ),
            (WriteError::DiskFull("x".into()), "nothing was changed: x"),
            (WriteError::NoQuorum("x".into()), "no quorum: x"),
            (WriteError::Unknown("x".into()), "outcome unknown: x"),
        ] {
            let exception = write_failure(&error);
            assert_eq!(exception.class.name(), "NamingError");
            assert_eq!(exception.text(), expected);
        }
    }
}
