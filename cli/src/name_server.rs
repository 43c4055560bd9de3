//! The name server's methods with typed arguments and results, in both families.

use std::collections::{BTreeMap, BTreeSet};

use hearth_wire::repr::{str_repr, text};
use hearth_wire::{Family, Serializer, Uri, Value};

use crate::{Address, ClientError, ConnectOptions, Connection};

/// Id of the object that every name server serves, and the name under which it lists itself.
pub const NAME_SERVER: &str = "Pyro.NameServer";

/// The entry that is registered under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The URI as it was registered; it may not parse.
    pub uri: String,
    /// The metadata tags. A tag that is not a text, which only Pyro's own memory store keeps, appears as Python
    /// prints it.
    pub metadata: BTreeSet<String>,
}

/// Entries by name, in the order of the names' code points.
pub type Listing = BTreeMap<String, Registration>;

/// The entries that a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter<'a> {
    /// All entries.
    All,
    /// Entries whose name begins with this text.
    Prefix(&'a str),
    /// Entries whose name this Python regular expression matches at its start.
    Regex(&'a str),
    /// Entries that have all these tags.
    MetaAll(&'a BTreeSet<String>),
    /// Entries that have at least one of these tags.
    MetaAny(&'a BTreeSet<String>),
}

/// The entries to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal<'a> {
    /// The entry with this name.
    Name(&'a str),
    /// Entries whose name begins with this text.
    Prefix(&'a str),
    /// Entries whose name this Python regular expression matches at its start.
    Regex(&'a str),
}

/// The behaviour of `register` if the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// Replaces the old entry, tags included.
    Replace,
    /// Fails with a `NamingError` (`safe=True`).
    Refuse,
}

/// A name server: its address, and the connection to it once there is one.
///
/// Like Pyro's proxies it connects on first use, and the call that finds the connection lost fails. Unlike them
/// it then stays closed until [`NameServer::reconnect`].
#[derive(Debug)]
pub struct NameServer {
    address: Address,
    options: ConnectOptions,
    connection: Option<Connection>,
}

impl NameServer {
    /// Creates a name server that is connected on first use.
    pub fn new(address: Address, options: ConnectOptions) -> Self {
        Self {
            address,
            options,
            connection: None,
        }
    }

    /// Connects to a name server.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub async fn connect(address: &Address, options: &ConnectOptions) -> Result<Self, ClientError> {
        let mut name_server = Self::new(address.clone(), options.clone());
        name_server.reconnect().await?;
        Ok(name_server)
    }

    /// Replaces the connection by a new one.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub async fn reconnect(&mut self) -> Result<(), ClientError> {
        let connection = Connection::connect(&self.address, NAME_SERVER, &self.options).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// The name server's own URI.
    pub fn uri(&self) -> Uri {
        Uri::object(NAME_SERVER, self.address.to_location())
    }

    /// The name server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The protocol family, once there is a connection.
    pub fn family(&self) -> Option<Family> {
        self.connection.as_ref().map(Connection::family)
    }

    /// The serializer of calls and replies.
    pub fn serializer(&self) -> Serializer {
        self.options.serializer
    }

    /// Returns the connection, and connects first if there is none. For methods that have no wrapper here.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub async fn connection(&mut self) -> Result<&mut Connection, ClientError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::connect(&self.address, NAME_SERVER, &self.options).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Checks that the name server answers.
    ///
    /// # Errors
    /// Those of [`Connection::connect`] and [`Connection::call`], as for all methods below.
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.call("ping", vec![], vec![]).await.map(drop)
    }

    /// Returns the number of entries, the name server's own included.
    pub async fn count(&mut self) -> Result<u64, ClientError> {
        let count = self.call("count", vec![], vec![]).await?;
        self.as_count("count", &count)
    }

    /// Returns the URI registered under `name`.
    ///
    /// # Errors
    /// `NamingError` if the name is unknown.
    pub async fn lookup(&mut self, name: &str) -> Result<Uri, ClientError> {
        match self.call("lookup", vec![name.into()], vec![]).await? {
            Value::Uri(uri) => Ok(*uri),
            other => Err(self.unexpected("lookup", &other)),
        }
    }

    /// Returns the URI registered under `name` and its tags.
    ///
    /// # Errors
    /// `NamingError` if the name is unknown. Pyro's own servers fail with marshal, which cannot express this
    /// reply.
    pub async fn lookup_with_metadata(
        &mut self,
        name: &str,
    ) -> Result<(Uri, BTreeSet<String>), ClientError> {
        let args = vec![name.into()];
        let pair = self.call("lookup", args, with_metadata()).await?;
        match pair_of(&pair) {
            Some((Value::Uri(uri), tags)) => {
                Ok((uri.as_ref().clone(), self.as_tags("lookup", tags)?))
            }
            _ => Err(self.unexpected("lookup", &pair)),
        }
    }

    /// Registers `uri` under `name`. The entry has exactly the tags in `metadata`; `None` leaves the tags out
    /// of the call.
    ///
    /// # Errors
    /// `NamingError` if the name is taken and `if_taken` is [`IfTaken::Refuse`]; `PyroError` for a URI that
    /// does not parse.
    pub async fn register(
        &mut self,
        name: &str,
        uri: &str,
        if_taken: IfTaken,
        metadata: Option<&BTreeSet<String>>,
    ) -> Result<(), ClientError> {
        let args = vec![name.into(), uri.into()];
        let mut kwargs = vec![("safe".into(), Value::Bool(if_taken == IfTaken::Refuse))];
        if let Some(tags) = metadata {
            kwargs.push(("metadata".into(), tag_set(tags)));
        }
        self.call("register", args, kwargs).await.map(drop)
    }

    /// Replaces the tags of an entry.
    ///
    /// # Errors
    /// `NamingError` if the name is unknown.
    pub async fn set_metadata(
        &mut self,
        name: &str,
        metadata: &BTreeSet<String>,
    ) -> Result<(), ClientError> {
        let args = vec![name.into(), tag_set(metadata)];
        self.call("set_metadata", args, vec![]).await.map(drop)
    }

    /// Removes entries and returns their number. The name server's own entry stays.
    ///
    /// # Errors
    /// `NamingError` for an invalid regular expression.
    pub async fn remove(&mut self, removal: Removal<'_>) -> Result<u64, ClientError> {
        let (args, kwargs) = match removal {
            Removal::Name(name) => (vec![name.into()], vec![]),
            Removal::Prefix(prefix) => (vec![], vec![("prefix".into(), prefix.into())]),
            Removal::Regex(regex) => (vec![], vec![("regex".into(), regex.into())]),
        };
        let count = self.call("remove", args, kwargs).await?;
        self.as_count("remove", &count)
    }

    /// Returns entries with their tags. A filter by tags uses `yplookup` in Pyro5 and `list` in Pyro4.
    ///
    /// # Errors
    /// `NamingError` for an invalid regular expression. Pyro5's own server fails with json and msgpack if an
    /// entry was registered without tags.
    pub async fn list(&mut self, filter: Filter<'_>) -> Result<Listing, ClientError> {
        let (method, reply) = self.query(filter, true).await?;
        let Value::Dict(items) = reply else {
            return Err(self.unexpected(method, &reply));
        };
        let mut listing = Listing::new();
        for (name, pair) in &items {
            let Some((Value::Str(uri), tags)) = pair_of(pair) else {
                return Err(self.unexpected(method, pair));
            };
            let registration = Registration {
                uri: uri.clone(),
                metadata: self.as_tags(method, tags)?,
            };
            listing.insert(text(name), registration);
        }
        Ok(listing)
    }

    /// Returns names and URIs without tags, which makes the reply smaller.
    ///
    /// # Errors
    /// `NamingError` for an invalid regular expression.
    pub async fn list_uris(
        &mut self,
        filter: Filter<'_>,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let (method, reply) = self.query(filter, false).await?;
        let Value::Dict(items) = reply else {
            return Err(self.unexpected(method, &reply));
        };
        Ok(items
            .iter()
            .map(|(name, uri)| (text(name), text(uri)))
            .collect())
    }

    /// Returns the entries that have all of `tags` (Pyro's yellow pages).
    ///
    /// # Errors
    /// Those of [`NameServer::list`].
    pub async fn yplookup_all(&mut self, tags: &BTreeSet<String>) -> Result<Listing, ClientError> {
        self.list(Filter::MetaAll(tags)).await
    }

    /// Returns the entries that have at least one of `tags`.
    ///
    /// # Errors
    /// Those of [`NameServer::list`].
    pub async fn yplookup_any(&mut self, tags: &BTreeSet<String>) -> Result<Listing, ClientError> {
        self.list(Filter::MetaAny(tags)).await
    }

    async fn query(
        &mut self,
        filter: Filter<'_>,
        return_metadata: bool,
    ) -> Result<(&'static str, Value), ClientError> {
        let family = self.connection().await?.family();
        let is_pyro5 = family == Family::Pyro5;
        let (method, key, value) = match filter {
            Filter::All => ("list", "", None),
            Filter::Prefix(prefix) => ("list", "prefix", Some(prefix.into())),
            Filter::Regex(regex) => ("list", "regex", Some(regex.into())),
            Filter::MetaAll(tags) if is_pyro5 => ("yplookup", "meta_all", Some(tag_list(tags))),
            Filter::MetaAny(tags) if is_pyro5 => ("yplookup", "meta_any", Some(tag_list(tags))),
            Filter::MetaAll(tags) => ("list", "metadata_all", Some(tag_set(tags))),
            Filter::MetaAny(tags) => ("list", "metadata_any", Some(tag_set(tags))),
        };
        let mut kwargs: Vec<(String, Value)> = Vec::with_capacity(2);
        if let Some(value) = value {
            kwargs.push((key.into(), value));
        }
        kwargs.push(("return_metadata".into(), Value::Bool(return_metadata)));
        let reply = self.call(method, vec![], kwargs).await?;
        Ok((method, reply))
    }

    async fn call(
        &mut self,
        method: &str,
        args: Vec<Value>,
        kwargs: Vec<(String, Value)>,
    ) -> Result<Value, ClientError> {
        let connection = self.connection().await?;
        connection.call(NAME_SERVER, method, args, kwargs).await
    }

    fn as_count(&self, method: &str, value: &Value) -> Result<u64, ClientError> {
        match value {
            Value::Int(count) => u64::try_from(*count).ok(),
            _ => None,
        }
        .ok_or_else(|| self.unexpected(method, value))
    }

    fn as_tags(&self, method: &str, value: &Value) -> Result<BTreeSet<String>, ClientError> {
        match value {
            Value::None => Ok(BTreeSet::new()),
            Value::List(tags) | Value::Tuple(tags) | Value::Set(tags) | Value::FrozenSet(tags) => {
                Ok(tags.iter().map(text).collect())
            }
            other => Err(self.unexpected(method, other)),
        }
    }

    fn unexpected(&self, method: &str, found: &Value) -> ClientError {
        ClientError::Unexpected {
            address: self.address.clone(),
            method: method.to_owned(),
            found: found.type_name().to_owned(),
        }
    }
}

/// Python's `repr` of a set of texts, in the given order: `{'a', 'b'}`, and `set()` for none.
pub fn set_repr<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    match joined_reprs(texts) {
        items if items.is_empty() => "set()".into(),
        items => format!("{{{items}}}"),
    }
}

/// Python's `repr` of a list of texts: `['a', 'b']`.
pub fn list_repr<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", joined_reprs(texts))
}

fn joined_reprs<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = texts.into_iter().map(str_repr).collect();
    items.join(", ")
}

fn with_metadata() -> Vec<(String, Value)> {
    vec![("return_metadata".into(), Value::Bool(true))]
}

fn tag_set(tags: &BTreeSet<String>) -> Value {
    Value::Set(tags.iter().map(|tag| tag.as_str().into()).collect())
}

fn tag_list(tags: &BTreeSet<String>) -> Value {
    Value::List(tags.iter().map(|tag| tag.as_str().into()).collect())
}

/// The two items of a pair. json and msgpack turn a tuple into a list.
fn pair_of(value: &Value) -> Option<(&Value, &Value)> {
    match value {
        Value::Tuple(items) | Value::List(items) => match items.as_slice() {
            [first, second] => Some((first, second)),
            _ => None,
        },
        _ => None,
    }
}
