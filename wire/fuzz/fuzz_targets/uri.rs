//! Any text as a URI: no panic, its state gives it back, and so does its text form where Pyro's own
//! grammar allows it.

#![no_main]

use hearth_wire::uri::{Target, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(uri) = Uri::parse(text, 9090) else { return };
    assert_eq!(Uri::from_state(uri.state()).as_ref(), Ok(&uri));
    let printed = uri.to_string();
    let host_is_empty = uri.location.is_some() && uri.location().is_none();
    // Sorting may move an empty tag or an `@` to where the grammar reads them differently.
    let tags_are_odd = matches!(&uri.target, Target::Meta(tags)
        if tags.iter().any(|tag| tag.is_empty() || tag.contains('@')));
    // Brackets only follow a colon in the host, and only digits follow the brackets.
    let is_ipv6 = printed.contains("@[");
    let port_is_negative = printed.contains("]:-");
    if !host_is_empty && !tags_are_odd && !(is_ipv6 && port_is_negative) {
        assert_eq!(Uri::parse(&printed, 9090).as_ref(), Ok(&uri), "{printed:?}");
    }
});
