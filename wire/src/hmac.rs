//! The HMAC of Pyro4 messages: HMAC-SHA1 over the payload as on the wire, then the data of every
//! other annotation in ascending order of their keys (protocol.md 4).
