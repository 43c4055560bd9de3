//! The client library of Hearth: finds a Pyro name server, resolves names and calls objects, in both wire
//! protocols.
//!
//! It works with every Pyro4 and Pyro5 server. It has typed methods for a name server ([`NameServer`]) and for
//! a cluster of Hearth ([`Cluster`]). Calls return the server's exceptions as values and distinguish them from
//! errors of the connection ([`ClientError`]). Nothing in this library reconnects or repeats a call by itself.
//!
//! ```no_run
//! use hearth_cli::{Config, Connection, locate_ns, resolve};
//! use hearth_wire::Value;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::default();
//! let mut name_server = locate_ns(None, None, &config).await?;
//! println!("{} names at {}", name_server.count().await?, name_server.uri());
//!
//! let uri = resolve("PYRONAME:example.greeter", &config).await?;
//! let mut greeter = Connection::connect_uri(&uri, &config.connect).await?;
//! let object = greeter.object().to_owned();
//! let reply = greeter.call(&object, "greet", vec![Value::from("Ada")], vec![]).await?;
//! println!("{}", hearth_wire::repr::text(&reply));
//! # Ok(())
//! # }
//! ```

mod address;
pub mod bench;
mod cluster;
mod config;
mod connection;
mod error;
mod locate;
mod name_server;
mod resolve;
mod stream;

/// The types of call arguments and results: values, families, serializers, frames.
pub use hearth_wire as wire;

pub use address::{Address, AddressError};
pub use cluster::{
    CLUSTER, Cluster, ClusterStatus, Health, Member, MemberStatus, Role, SnapshotAbout,
    SnapshotBegun,
};
pub use config::{
    Config, ConfigError, ConnectOptions, Expected, IpVersion, NS_BCPORT, NS_PORT, Protocol,
    hmac_key, is_pickle, python_int, serializer,
};
pub use connection::{BatchCall, Connection, ObjectMetadata};
pub use error::{Attempt, ClientError};
pub use locate::locate_ns;
pub use name_server::{
    Filter, IfTaken, Listing, NAME_SERVER, NameServer, Registration, Removal, list_repr, set_repr,
};
pub use resolve::{resolve, resolve_at};
