//! What the front end must be told: addresses, secrets and bounds. It checks nothing here; the node's
//! own configuration has.

use std::time::Duration;

use hearth_raft::ClusterKeys;
use hearth_wire::{Limits, Serializer, Uri};

/// What one message from a client may hold. No call of a name server needs more, and a hundred clients
/// that send as much as they may do not fill the memory.
pub const DEFAULT_LIMITS: Limits = Limits {
    message_len_max: 8 << 20,
    inflated_len_max: 8 << 20,
    depth_max: 200,
    value_count_max: 300_000,
};

/// Settings of a [`Front`](super::Front). Start from [`FrontConfig::new`] and change what differs.
#[derive(Clone)]
pub struct FrontConfig {
    /// What `lookup("Pyro.NameServer")` answers on this node: the external (NAT) location where one
    /// is set, else the internal one.
    pub ns_uri: Uri,
    /// The internal location as `Pyro.Daemon.info()` shows it: `host:port` as given, or `./u:path`.
    pub daemon_location: String,
    /// The external location, where one is set.
    pub nat_location: Option<String>,
    /// `NS_PORT`: the port of `PYRONAME:` and `PYROMETA:` locations without one.
    pub ns_port: u16,
    /// With a key, Pyro4 messages must be signed with it and Pyro5 clients, which cannot sign, are
    /// refused.
    pub hmac_key: Option<Box<[u8]>>,
    /// `COMPRESSION`: whether replies are compressed.
    pub compression: bool,
    /// `SERIALIZERS_ACCEPTED` of Pyro4 clients; serpent, marshal and json by default.
    pub pyro4_serializers: SerializerSet,
    /// What Pyro5 clients may use; all by default, as in Pyro5.
    pub pyro5_serializers: SerializerSet,
    /// Bounds on what one message may hold.
    pub limits: Limits,
    /// Bytes that name, URI and tags of a registration may have together.
    pub registration_len_max: usize,
    /// The option that raises [`Self::registration_len_max`], for the refusal's text.
    pub registration_limit_option: String,
    /// Bytes of names, URIs and tags in one list, about; a longer one is refused before it is in memory.
    pub list_len_max: usize,
    /// Bytes that large messages may take together, over all connections, from their first byte until
    /// their call is done. Room for one message of the largest size is always given.
    pub request_memory_max: usize,
    /// Bytes that large answers may take together, over all connections, before others have to wait
    /// until they are read.
    pub answer_memory_max: usize,
    /// Names, tags or prefixes that one call may carry.
    pub call_item_count_max: usize,
    /// Connections at once, over all listeners.
    pub connection_count_max: usize,
    /// Connections at once of one address, this machine's own included. `None`: a quarter of all, and no
    /// limit for clients on this machine.
    pub connection_count_per_address_max: Option<usize>,
    /// The option that raises [`Self::connection_count_max`], for the refusal's text.
    pub connection_limit_option: String,
    /// `COMMTIMEOUT`: a connection without traffic for so long is closed.
    pub idle_timeout: Option<Duration>,
    /// A message that began must be whole by then, the first one counted from the accept.
    pub header_timeout: Duration,
    /// How long a client may leave replies unread before it is dropped.
    pub send_timeout: Duration,
    /// How long a write may wait for the cluster before its client is told that it failed.
    pub write_deadline: Duration,
    /// The cluster's keys: proof of any of them makes a client an administrator.
    pub cluster_keys: ClusterKeys,
    /// How look-ups, counts and lists are answered.
    pub reads: ReadMode,
    /// How long a read may wait for the cluster's word that this node is up to date.
    pub read_timeout: Duration,
    /// Between the start of a shutdown and the last connection's end.
    pub drain_timeout: Duration,
    /// What `info()` says this server is.
    pub server_type: ServerType,
}

impl FrontConfig {
    /// The settings of a plain `pyro4-ns` at `ns_uri`, whose location reads `daemon_location`.
    pub fn new(ns_uri: Uri, daemon_location: impl Into<String>) -> Self {
        Self {
            ns_uri,
            daemon_location: daemon_location.into(),
            nat_location: None,
            ns_port: 9090,
            hmac_key: None,
            compression: false,
            pyro4_serializers: SerializerSet::PYRO4_DEFAULT,
            pyro5_serializers: SerializerSet::ALL,
            limits: DEFAULT_LIMITS,
            registration_len_max: 1 << 20,
            list_len_max: 128 << 20,
            registration_limit_option: "--max-registration-size".to_owned(),
            request_memory_max: 32 << 20,
            answer_memory_max: 32 << 20,
            call_item_count_max: 100_000,
            connection_count_max: 10_000,
            connection_count_per_address_max: None,
            connection_limit_option: "--max-connections".to_owned(),
            idle_timeout: None,
            header_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
            write_deadline: Duration::from_secs(10),
            cluster_keys: ClusterKeys::default(),
            reads: ReadMode::Linearizable,
            read_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            server_type: ServerType::Thread,
        }
    }
}

/// Hides the key: a configuration may end up in a log.
impl std::fmt::Debug for FrontConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontConfig")
            .field("ns_uri", &self.ns_uri)
            .field("daemon_location", &self.daemon_location)
            .field("hmac_key", &self.hmac_key.as_ref().map(|_| "set"))
            .finish_non_exhaustive()
    }
}

/// `SERVERTYPE`. It has no effect but on the text of `info()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerType {
    /// `thread`.
    #[default]
    Thread,
    /// `multiplex`.
    Multiplex,
}

/// How look-ups, counts and lists are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// They see every write that was acknowledged anywhere before they began. A node that is cut off from
    /// the majority answers with an error.
    #[default]
    Linearizable,
    /// The same, but a node that is cut off answers from its own copy.
    Available,
    /// From the node's own copy, at once. It never goes back in time, but may be behind.
    Stale,
}

/// Which serializers one family's clients may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerializerSet(u8);

impl SerializerSet {
    /// None of them.
    pub const EMPTY: Self = Self(0);
    /// All four.
    pub const ALL: Self = Self::EMPTY
        .with(Serializer::Serpent)
        .with(Serializer::Json)
        .with(Serializer::Marshal)
        .with(Serializer::Msgpack);
    /// Pyro4's own default: serpent, marshal, json.
    pub const PYRO4_DEFAULT: Self = Self::EMPTY
        .with(Serializer::Serpent)
        .with(Serializer::Json)
        .with(Serializer::Marshal);

    /// This set and `serializer`.
    #[must_use]
    pub const fn with(self, serializer: Serializer) -> Self {
        Self(self.0 | Self::bit(serializer))
    }

    /// Whether `serializer` is in the set.
    pub const fn contains(self, serializer: Serializer) -> bool {
        self.0 & Self::bit(serializer) != 0
    }

    const fn bit(serializer: Serializer) -> u8 {
        match serializer {
            Serializer::Serpent => 1,
            Serializer::Json => 2,
            Serializer::Marshal => 4,
            Serializer::Msgpack => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pyro4_takes_msgpack_only_when_told_to() {
        let set = SerializerSet::PYRO4_DEFAULT;
        assert!(set.contains(Serializer::Serpent));
        assert!(set.contains(Serializer::Json));
        assert!(set.contains(Serializer::Marshal));
        assert!(!set.contains(Serializer::Msgpack));
        assert_eq!(set.with(Serializer::Msgpack), SerializerSet::ALL);
    }

    #[test]
    fn debug_output_hides_the_key() {
        let uri = Uri {
            target: hearth_wire::uri::Target::Object("Pyro.NameServer".to_owned()),
            location: None,
        };
        let mut config = FrontConfig::new(uri, "localhost:9090");
        config.hmac_key = Some(b"hunter2".as_slice().into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
