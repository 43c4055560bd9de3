//! What a starting node tells whoever watches its standard output, in the words of `pyro4-ns`.
//!
//! Scripts wait for these lines and read the URI from them, so they are the same, in the same order.

/// The last line, after a shutdown.
pub(crate) const SHUT_DOWN: &str = "NS shut down.";

/// What became of the broadcast responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// It runs at this location.
    Running(String),
    /// The socket speaks IPv6, which has no broadcast.
    Ipv6,
    /// Only this machine can reach the socket.
    Localhost,
    /// A unix socket, `-x`, or a URI that does not fit in a reply.
    Off,
}

/// What the lines are made of.
#[derive(Debug)]
pub(crate) struct Announcement<'a> {
    pub(crate) discovery: Discovery,
    /// Names, the server's own included.
    pub(crate) name_count: u64,
    /// The location that the socket is known by.
    pub(crate) location: &'a str,
    /// The address that it is bound to; none for a unix socket.
    pub(crate) address: Option<std::net::IpAddr>,
    pub(crate) has_key: bool,
    /// The location outside of a NAT.
    pub(crate) nat_location: Option<&'a str>,
}

impl Announcement<'_> {
    /// The lines, without line ends.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.discovery {
            Discovery::Running(location) => {
                lines.push(format!("Broadcast server running on {location}"));
            }
            Discovery::Ipv6 => lines.push("Not starting broadcast server for IPv6.".to_owned()),
            Discovery::Localhost => {
                lines.push("Not starting broadcast server for localhost.".to_owned());
            }
            Discovery::Off => {}
        }
        if self.name_count > 1 {
            lines.push(format!(
                "Persistent store contains {} existing registrations.",
                self.name_count
            ));
        }
        let address = self
            .address
            .map_or_else(|| "Unix domain socket".to_owned(), |ip| ip.to_string());
        lines.push(format!("NS running on {} ({address})", self.location));
        if !self.has_key {
            lines.push("Warning: HMAC key not set. Anyone can connect to this server!".to_owned());
        }
        let internal = uri_at(self.location);
        match self.nat_location {
            Some(nat) => {
                lines.push(format!("internal URI = {internal}"));
                lines.push(format!("external URI = {}", uri_at(nat)));
            }
            None => lines.push(format!("URI = {internal}")),
        }
        lines
    }
}

/// The URI of the name server at a location.
pub(crate) fn uri_at(location: &str) -> String {
    format!("PYRO:Pyro.NameServer@{location}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARNING: &str = "Warning: HMAC key not set. Anyone can connect to this server!";

    fn plain<'a>() -> Announcement<'a> {
        Announcement {
            discovery: Discovery::Localhost,
            name_count: 1,
            location: "localhost:9090",
            address: Some([127, 0, 0, 1].into()),
            has_key: false,
            nat_location: None,
        }
    }

    #[test]
    fn the_lines_are_those_of_pyro() {
        let cases: [(Announcement<'_>, &[&str]); 5] = [
            (
                plain(),
                &[
                    "Not starting broadcast server for localhost.",
                    "NS running on localhost:9090 (127.0.0.1)",
                    WARNING,
                    "URI = PYRO:Pyro.NameServer@localhost:9090",
                ],
            ),
            (
                Announcement {
                    discovery: Discovery::Running("0.0.0.0:9091".to_owned()),
                    location: "neptune:9090",
                    address: Some([192, 168, 1, 100].into()),
                    has_key: true,
                    name_count: 2,
                    ..plain()
                },
                &[
                    "Broadcast server running on 0.0.0.0:9091",
                    "Persistent store contains 2 existing registrations.",
                    "NS running on neptune:9090 (192.168.1.100)",
                    "URI = PYRO:Pyro.NameServer@neptune:9090",
                ],
            ),
            (
                Announcement {
                    location: "127.0.0.1:9090",
                    nat_location: Some("ext.example:8888"),
                    ..plain()
                },
                &[
                    "Not starting broadcast server for localhost.",
                    "NS running on 127.0.0.1:9090 (127.0.0.1)",
                    WARNING,
                    "internal URI = PYRO:Pyro.NameServer@127.0.0.1:9090",
                    "external URI = PYRO:Pyro.NameServer@ext.example:8888",
                ],
            ),
            (
                Announcement {
                    discovery: Discovery::Ipv6,
                    location: "[::1]:9090",
                    address: Some(std::net::Ipv6Addr::LOCALHOST.into()),
                    ..plain()
                },
                &[
                    "Not starting broadcast server for IPv6.",
                    "NS running on [::1]:9090 (::1)",
                    WARNING,
                    "URI = PYRO:Pyro.NameServer@[::1]:9090",
                ],
            ),
            (
                Announcement {
                    discovery: Discovery::Off,
                    location: "./u:/run/ns.sock",
                    address: None,
                    ..plain()
                },
                &[
                    "NS running on ./u:/run/ns.sock (Unix domain socket)",
                    WARNING,
                    "URI = PYRO:Pyro.NameServer@./u:/run/ns.sock",
                ],
            ),
        ];
        for (announcement, lines) in cases {
            assert_eq!(announcement.lines(), lines, "{announcement:?}");
        }
    }
}
