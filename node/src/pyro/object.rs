//! The objects that clients can call, their members, and who may see them.

use hearth_wire::{Exception, Family, PyroClass, Value};

use super::arguments::{Class, Signature};
use super::python;

/// The name server's object id, and its name in its own registry.
pub(super) const NAME_SERVER: &str = "Pyro.NameServer";
/// The object id of the daemon.
pub(super) const DAEMON: &str = "Pyro.Daemon";
/// The object id of what the original does not have: the cluster behind the name server.
pub(super) const CLUSTER: &str = "Hearth.Cluster";

/// An object that this server exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// `Pyro.NameServer`.
    NameServer,
    /// `Pyro.Daemon`.
    Daemon,
    /// `Hearth.Cluster`.
    Cluster,
}

/// A method that this server exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Count,
    List,
    Lookup,
    Ping,
    Register,
    Remove,
    SetMetadata,
    Yplookup,
    CloseStream,
    DaemonPing,
    GetMetadata,
    GetNextStreamItem,
    Info,
    Registered,
    ClusterAdd,
    ClusterAuthorize,
    ClusterChallenge,
    ClusterHealth,
    ClusterMembers,
    ClusterPromote,
    ClusterRemove,
    ClusterSnapshotBegin,
    ClusterSnapshotEnd,
    ClusterSnapshotPiece,
    ClusterStatus,
    ClusterTransferLeader,
}

impl Object {
    /// The object with this id, whatever type the id has.
    ///
    /// # Errors
    /// `DaemonError: unknown object`, or the `TypeError` of an id that has no hash.
    pub(super) fn by_id(id: &Value) -> Result<Self, Exception> {
        match id.as_str() {
            Some(NAME_SERVER) => Ok(Self::NameServer),
            Some(DAEMON) => Ok(Self::Daemon),
            Some(CLUSTER) => Ok(Self::Cluster),
            _ => {
                python::check_hashable(id)?;
                Err(Exception::pyro(PyroClass::DaemonError, "unknown object"))
            }
        }
    }

    /// The class that implements this object in the original, or would.
    pub(super) const fn class(self, family: Family) -> Class {
        let (name, full_name) = match (self, family) {
            (Self::NameServer, Family::Pyro4) => ("NameServer", "Pyro4.naming.NameServer"),
            (Self::NameServer, Family::Pyro5) => ("NameServer", "Pyro5.nameserver.NameServer"),
            (Self::Daemon, Family::Pyro4) => ("DaemonObject", "Pyro4.core.DaemonObject"),
            (Self::Daemon, Family::Pyro5) => ("DaemonObject", "Pyro5.server.DaemonObject"),
            (Self::Cluster, _) => ("Cluster", "hearth.Cluster"),
        };
        Class { name, full_name }
    }

    const fn methods(self, family: Family) -> &'static [Method] {
        use Method as M;
        match (self, family) {
            (Self::NameServer, Family::Pyro4) => &[
                M::Count,
                M::List,
                M::Lookup,
                M::Ping,
                M::Register,
                M::Remove,
                M::SetMetadata,
            ],
            (Self::NameServer, Family::Pyro5) => &[
                M::Count,
                M::List,
                M::Lookup,
                M::Ping,
                M::Register,
                M::Remove,
                M::SetMetadata,
                M::Yplookup,
            ],
            (Self::Daemon, _) => &[
                M::CloseStream,
                M::GetMetadata,
                M::GetNextStreamItem,
                M::Info,
                M::DaemonPing,
                M::Registered,
            ],
            (Self::Cluster, _) => &[
                M::ClusterAdd,
                M::ClusterAuthorize,
                M::ClusterChallenge,
                M::ClusterHealth,
                M::ClusterMembers,
                M::ClusterPromote,
                M::ClusterRemove,
                M::ClusterSnapshotBegin,
                M::ClusterSnapshotEnd,
                M::ClusterSnapshotPiece,
                M::ClusterStatus,
                M::ClusterTransferLeader,
            ],
        }
    }

    /// What a client learns about this object when it connects or asks: its methods, one-way methods
    /// and attributes, as lists or as sets.
    pub(super) fn metadata(self, family: Family, as_lists: bool) -> Value {
        let collection = |items: Vec<Value>| {
            if as_lists {
                Value::List(items)
            } else {
                Value::Set(items)
            }
        };
        let methods = self.methods(family).iter();
        let names = methods
            .map(|method| method.signature(family).method.into())
            .collect();
        Value::Dict(vec![
            ("methods".into(), collection(names)),
            ("oneway".into(), collection(Vec::new())),
            ("attrs".into(), collection(Vec::new())),
        ])
    }

    /// The method that a call names, whatever type the name has.
    ///
    /// # Errors
    /// `AttributeError` for private, unexposed and unknown members, and what Python makes of a name
    /// that is no text.
    pub(super) fn method(self, family: Family, name: &Value) -> Result<Method, Exception> {
        let Some(name) = name.as_str() else {
            return Err(self.no_text(name));
        };
        if let Some(method) = self.find(family, name) {
            return Ok(method);
        }
        Err(attribute_error(if is_private(family, name) {
            format!("attempt to access private attribute '{name}'")
        } else if self.is_unexposed(name) {
            format!("attempt to access unexposed attribute '{name}'")
        } else {
            let class = self.class(family).name;
            format!("'{class}' object has no attribute '{name}'")
        }))
    }

    fn find(self, family: Family, name: &str) -> Option<Method> {
        let mut methods = self.methods(family).iter();
        methods
            .find(|method| method.signature(family).method == name)
            .copied()
    }

    /// The error for a method name that is not plain text: what Python says when it hashes the name
    /// and then asks it whether it starts with an underscore.
    fn no_text(self, name: &Value) -> Exception {
        match name {
            // A set is looked up in another set as if it were frozen.
            Value::Set(_) => {}
            _ => {
                if let Err(exception) = python::check_hashable(name) {
                    return exception;
                }
            }
        }
        match name {
            Value::Bytes(_) => Exception::type_error(
                "startswith first arg must be bytes or a tuple of bytes, not str",
            ),
            Value::SurrogateStr(points) => {
                let name: String = points
                    .iter()
                    .map(|&point| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER))
                    .collect();
                let class = self.class(Family::Pyro4).name;
                attribute_error(format!("'{class}' object has no attribute '{name}'"))
            }
            _ => attribute_error(format!(
                "'{}' object has no attribute 'startswith'",
                name.type_name()
            )),
        }
    }

    /// Members of the original's instances that it does not let a client call.
    fn is_unexposed(self, name: &str) -> bool {
        match name {
            "__dict__" | "__doc__" => true,
            "storage" | "lock" => self == Self::NameServer,
            "daemon" => self == Self::Daemon,
            _ => false,
        }
    }

    /// The answer to `__getattr__` and `__setattr__`: no object has an attribute that a client may
    /// read or write.
    pub(super) fn attribute_refusal(self, family: Family, name: &Value) -> Exception {
        let Some(name) = name.as_str() else {
            return Exception::type_error(format!(
                "attribute name must be string, not '{}'",
                name.type_name()
            ));
        };
        let is_member = self.find(family, name).is_some() || CLASS_MEMBERS.contains(&name);
        attribute_error(if is_member {
            format!("attempt to access unexposed or unknown remote attribute '{name}'")
        } else {
            let class = self.class(family).name;
            format!("type object '{class}' has no attribute '{name}'")
        })
    }
}

impl Method {
    /// The method's name and parameters.
    pub(super) const fn signature(self, family: Family) -> &'static Signature {
        macro_rules! signature {
            ($method:literal, $required:literal, $($parameter:literal),*) => {
                &Signature { method: $method, parameters: &[$($parameter),*], required_count: $required }
            };
        }
        match (self, family) {
            (Self::Count, _) => signature!("count", 0,),
            (Self::List, Family::Pyro4) => signature!(
                "list",
                0,
                "prefix",
                "regex",
                "metadata_all",
                "metadata_any",
                "return_metadata"
            ),
            (Self::List, Family::Pyro5) => {
                signature!("list", 0, "prefix", "regex", "return_metadata")
            }
            (Self::Lookup, _) => signature!("lookup", 1, "name", "return_metadata"),
            (Self::Ping | Self::DaemonPing, _) => signature!("ping", 0,),
            (Self::Register, _) => signature!("register", 2, "name", "uri", "safe", "metadata"),
            (Self::Remove, _) => signature!("remove", 0, "name", "prefix", "regex"),
            (Self::SetMetadata, _) => signature!("set_metadata", 2, "name", "metadata"),
            (Self::Yplookup, _) => {
                signature!("yplookup", 0, "meta_all", "meta_any", "return_metadata")
            }
            (Self::CloseStream, _) => signature!("close_stream", 1, "streamId"),
            (Self::GetMetadata, Family::Pyro4) => {
                signature!("get_metadata", 1, "objectId", "as_lists")
            }
            (Self::GetMetadata, Family::Pyro5) => signature!("get_metadata", 1, "objectId"),
            (Self::GetNextStreamItem, _) => signature!("get_next_stream_item", 1, "streamId"),
            (Self::Info, _) => signature!("info", 0,),
            (Self::Registered, _) => signature!("registered", 0,),
            (Self::ClusterAdd, _) => signature!("add", 0, "node_id"),
            (Self::ClusterAuthorize, _) => signature!("authorize", 1, "proof"),
            (Self::ClusterChallenge, _) => signature!("challenge", 0,),
            (Self::ClusterHealth, _) => signature!("health", 0,),
            (Self::ClusterMembers, _) => signature!("members", 0,),
            (Self::ClusterPromote, _) => signature!("promote", 1, "node_id"),
            (Self::ClusterRemove, _) => signature!("remove", 1, "node_id"),
            (Self::ClusterSnapshotBegin, _) => signature!("snapshot_begin", 0,),
            (Self::ClusterSnapshotEnd, _) => signature!("snapshot_end", 1, "id"),
            (Self::ClusterSnapshotPiece, _) => {
                signature!("snapshot_piece", 2, "id", "number")
            }
            (Self::ClusterStatus, _) => signature!("status", 0,),
            (Self::ClusterTransferLeader, _) => signature!("transfer_leader", 0, "node_id"),
        }
    }
}

fn attribute_error(text: String) -> Exception {
    Exception::builtin("AttributeError", text)
}

/// Pyro's rule for names that no client may call: an underscore in front makes a name private, unless
/// it is a dunder name; and some dunder names are private all the same.
fn is_private(family: Family, name: &str) -> bool {
    if PRIVATE_DUNDERS.contains(&name) || (family == Family::Pyro4 && name == "__unicode__") {
        return true;
    }
    let is_dunder = name.len() > 4 && name.starts_with("__") && name.ends_with("__");
    name.starts_with('_') && !is_dunder
}

/// The dunder names that both families refuse as private.
const PRIVATE_DUNDERS: [&str; 41] = [
    "__bool__",
    "__call__",
    "__class__",
    "__cmp__",
    "__coerce__",
    "__copy__",
    "__deepcopy__",
    "__del__",
    "__delattr__",
    "__dir__",
    "__enter__",
    "__eq__",
    "__exit__",
    "__format__",
    "__ge__",
    "__getattr__",
    "__getattribute__",
    "__getinitargs__",
    "__getnewargs__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__instancecheck__",
    "__le__",
    "__lt__",
    "__module__",
    "__ne__",
    "__new__",
    "__nonzero__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__setstate__",
    "__sizeof__",
    "__str__",
    "__subclasscheck__",
    "__subclasshook__",
    "__weakref__",
];

/// What the class of each object has besides its methods: the members of Python's `object`, and what
/// Python and Pyro add to every exposed class.
const CLASS_MEMBERS: [&str; 28] = [
    "__class__",
    "__delattr__",
    "__dict__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__module__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
    "__weakref__",
    "_pyroExposed",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(object: Object, name: impl Into<Value>) -> String {
        let exception = object
            .method(Family::Pyro4, &name.into())
            .expect_err("no such method");
        match exception.args.into_iter().next() {
            Some(Value::Str(text)) => format!("{}: {text}", exception.class.name()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn objects_are_found_by_their_exact_id() {
        assert_eq!(Object::by_id(&"Pyro.Daemon".into()), Ok(Object::Daemon));
        let unknown = Object::by_id(&"pyro.nameserver".into()).expect_err("wrong case");
        assert_eq!(unknown.class.name(), "DaemonError");
        let unhashable = Object::by_id(&Value::List(vec![])).expect_err("no id");
        assert_eq!(unhashable, Exception::type_error("unhashable type: 'list'"));
    }

    #[test]
    fn yplookup_is_for_pyro5_only() {
        let name = Value::from("yplookup");
        assert!(Object::NameServer.method(Family::Pyro4, &name).is_err());
        let found = Object::NameServer.method(Family::Pyro5, &name);
        assert_eq!(found, Ok(Method::Yplookup));
    }

    #[test]
    fn refused_members_have_the_originals_texts() {
        let ns = Object::NameServer;
        for (name, text) in [
            ("_x", "attempt to access private attribute '_x'"),
            ("____", "attempt to access private attribute '____'"),
            ("__init__", "attempt to access private attribute '__init__'"),
            ("_____", "'NameServer' object has no attribute '_____'"),
            ("__len__", "'NameServer' object has no attribute '__len__'"),
            (
                "__dict__",
                "attempt to access unexposed attribute '__dict__'",
            ),
            ("storage", "attempt to access unexposed attribute 'storage'"),
            ("daemon", "'NameServer' object has no attribute 'daemon'"),
            (
                "lookup.x",
                "'NameServer' object has no attribute 'lookup.x'",
            ),
            ("", "'NameServer' object has no attribute ''"),
        ] {
            assert_eq!(refusal(ns, name), format!("AttributeError: {text}"));
        }
        assert_eq!(
            refusal(Object::Daemon, "lock"),
            "AttributeError: 'DaemonObject' object has no attribute 'lock'"
        );
    }

    #[test]
    fn a_method_name_that_is_no_text_fails_as_in_python() {
        let ns = Object::NameServer;
        assert_eq!(
            refusal(ns, Value::None),
            "AttributeError: 'NoneType' object has no attribute 'startswith'"
        );
        assert_eq!(
            refusal(ns, Value::List(vec![])),
            "TypeError: unhashable type: 'list'"
        );
        assert_eq!(
            refusal(ns, Value::Set(vec![])),
            "AttributeError: 'set' object has no attribute 'startswith'"
        );
    }

    #[test]
    fn every_signature_fits_the_argument_table() {
        for object in [Object::NameServer, Object::Daemon, Object::Cluster] {
            for family in [Family::Pyro4, Family::Pyro5] {
                for method in object.methods(family) {
                    let signature = method.signature(family);
                    assert!(signature.parameters.len() <= 5, "{signature:?}");
                    assert!(signature.required_count <= signature.parameters.len());
                }
            }
        }
    }
}
