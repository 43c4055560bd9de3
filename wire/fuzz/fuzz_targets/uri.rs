//! Fuzzes URIs with any text. Nothing panics, the state gives the same URI, and so does the printed
//! form where Pyro's own grammar allows it.

#![no_main]

use hearth_wire::uri::{Location, Target, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(uri) = Uri::parse(text, 9090) else {
        return;
    };
    assert_eq!(Uri::from_state(uri.state()).as_ref(), Ok(&uri));
    let printed = uri.to_string();
    // Pyro cannot read these URIs in the form in which it prints them: an empty host, a host that
    // looks like a socket's prefix, a negative port after brackets, and tags that sorting moves to
    // a position where the grammar reads them differently.
    let host_is_odd = match &uri.location {
        Some(Location::Tcp { host, port }) => {
            host.is_empty() || host == "./u" || (host.contains(':') && *port < 0)
        }
        _ => false,
    };
    let tags_are_odd = matches!(&uri.target, Target::Meta(tags)
        if tags.iter().any(|tag| tag.is_empty() || tag.contains('@')));
    if !host_is_odd && !tags_are_odd {
        assert_eq!(Uri::parse(&printed, 9090).as_ref(), Ok(&uri), "{printed:?}");
    }
});
