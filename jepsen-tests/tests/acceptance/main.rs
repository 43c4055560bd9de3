//! Three and five real nodes as one name server.
