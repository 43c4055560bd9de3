//! The object `Pyro.Daemon`: what a client can ask about the server itself.

use hearth_wire::{Exception, Family, PyroClass, Value};

use super::arguments::Arguments;
use super::config::{FrontConfig, ServerType};
use super::object::{DAEMON, Method, NAME_SERVER, Object};
use super::python;

/// Worker threads that an idle server of the original has (`THREADPOOL_SIZE_MIN`).
const IDLE_WORKER_COUNT: usize = 4;

/// Runs a method on arguments that were bound to its signature. `connection_count` is how many clients
/// are connected now.
///
/// # Errors
/// The exception that the original raises.
pub(super) fn call(
    method: Method,
    family: Family,
    config: &FrontConfig,
    connection_count: usize,
    arguments: &mut Arguments,
) -> Result<Value, Exception> {
    match method {
        Method::Info => Ok(info(config, connection_count).into()),
        Method::Registered => Ok(Value::List(vec![DAEMON.into(), NAME_SERVER.into()])),
        Method::GetMetadata => {
            let object = Object::by_id(&arguments.required(0))?;
            Ok(object.metadata(family, arguments.flag(1, false)))
        }
        Method::GetNextStreamItem => {
            python::check_hashable(&arguments.required(0))?;
            Err(Exception::pyro(
                PyroClass::PyroError,
                "item stream terminated",
            ))
        }
        Method::CloseStream => {
            python::check_hashable(&arguments.required(0))?;
            Ok(Value::None)
        }
        _ => Ok(Value::None),
    }
}

fn info(config: &FrontConfig, connection_count: usize) -> String {
    let location = &config.daemon_location;
    let nat_location = config.nat_location.as_deref().unwrap_or("None");
    let server = match config.server_type {
        // The original's pool grows with its connections.
        ServerType::Thread => format!(
            "SocketServer_Threadpool on {location}; {} workers",
            connection_count.max(IDLE_WORKER_COUNT)
        ),
        ServerType::Multiplex => {
            format!("SocketServer_Multiplex on {location}; {connection_count} connections")
        }
    };
    format!(
        "{DAEMON} bound on {location}, NAT {nat_location}, 2 objects registered. Servertype: <{server}>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_has_the_shape_of_the_original() {
        let uri = hearth_wire::Uri {
            target: hearth_wire::uri::Target::Object(NAME_SERVER.to_owned()),
            location: None,
        };
        let mut config = FrontConfig::new(uri, "neptune:9090");
        assert_eq!(
            info(&config, 1),
            "Pyro.Daemon bound on neptune:9090, NAT None, 2 objects registered. \
             Servertype: <SocketServer_Threadpool on neptune:9090; 4 workers>"
        );
        config.server_type = ServerType::Multiplex;
        config.nat_location = Some("ext:1".to_owned());
        assert_eq!(
            info(&config, 2),
            "Pyro.Daemon bound on neptune:9090, NAT ext:1, 2 objects registered. \
             Servertype: <SocketServer_Multiplex on neptune:9090; 2 connections>"
        );
    }
}
