//! The fixed headers of both versions.
