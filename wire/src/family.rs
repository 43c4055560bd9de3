//! The two protocol families that share one port.

use std::fmt;

/// A Pyro generation. It determines the header layout, the flag bits, the serializer ids and the
/// class names on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Pyro4, wire version 48.
    Pyro4,
    /// Pyro5, wire version 502.
    Pyro5,
}

impl Family {
    /// The protocol version in the header's bytes 4 and 5.
    pub const fn version(self) -> u16 {
        match self {
            Self::Pyro4 => 48,
            Self::Pyro5 => 502,
        }
    }

    /// `Pyro4` or `Pyro5`, the names of the Python packages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pyro4 => "Pyro4",
            Self::Pyro5 => "Pyro5",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
