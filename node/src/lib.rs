//! One Hearth node: the parts that `hearthd` is put together from.

pub mod pyro;
