//! Who calls: how a client comes and what it has proved on its connection, and the rights that follow.
//!
//! A [`Caller`] lives as long as its connection and goes with each of its calls. It knows no method and
//! refuses nobody; the objects ask it. Proof of the cluster key is a challenge that is good once and on
//! this connection ([`hearth_wire::admin`]).

use std::fmt;

use hearth_raft::ClusterKeys;
use hearth_wire::admin;

use super::presence::Presence;
use super::socket::Peer;

/// Wrong proofs that a connection may bring.
const WRONG_PROOF_COUNT_MAX: u8 = 8;

/// A client, as its connection shows it.
#[derive(Debug)]
pub(super) struct Caller {
    peer: Peer,
    /// This server has an HMAC key, so that nothing gets here which is not signed with it.
    is_signed: bool,
    has_proved_cluster_key: bool,
    /// The challenge that is open.
    nonce: Option<Box<str>>,
    wrong_proof_count: u8,
    presence: Presence,
}

/// What makes a caller an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdminRight {
    Unix,
    Loopback,
    HmacKey,
    ClusterKey,
}

impl fmt::Display for AdminRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => "a unix socket",
            Self::Loopback => "this machine",
            Self::HmacKey => "the HMAC key",
            Self::ClusterKey => "the cluster key",
        })
    }
}

/// Why a proof is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProofError {
    /// No challenge is open.
    NoChallenge,
    /// It proves none of the keys.
    Wrong,
    /// The connection has brought as many wrong ones as it may.
    TooMany,
}

impl Caller {
    /// The client at the other end of a new connection.
    pub(super) fn new(peer: Peer, is_signed: bool) -> Self {
        Self {
            peer,
            is_signed,
            has_proved_cluster_key: false,
            nonce: None,
            wrong_proof_count: 0,
            presence: Presence::default(),
        }
    }

    /// Whether it is still there.
    pub(super) const fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Where it comes from.
    pub(super) const fn peer(&self) -> Peer {
        self.peer
    }

    /// By which right it may change the cluster, if it may.
    pub(super) fn admin_right(&self) -> Option<AdminRight> {
        match self.peer {
            Peer::Unix => Some(AdminRight::Unix),
            // A socket for both IP versions shows IPv4 as a part of IPv6.
            Peer::Tcp(address) if address.ip().to_canonical().is_loopback() => {
                Some(AdminRight::Loopback)
            }
            Peer::Tcp(_) if self.is_signed => Some(AdminRight::HmacKey),
            Peer::Tcp(_) if self.has_proved_cluster_key => Some(AdminRight::ClusterKey),
            Peer::Tcp(_) => None,
        }
    }

    /// Opens a challenge in the place of an earlier one. `None` after too many wrong proofs.
    pub(super) fn challenge(&mut self) -> Option<&str> {
        if self.wrong_proof_count >= WRONG_PROOF_COUNT_MAX {
            return None;
        }
        let nonce: [u8; 32] = rand::random();
        let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.nonce.insert(nonce.into()))
    }

    /// Takes the answer to the open challenge, which is closed by it, right or wrong.
    pub(super) fn authorize(
        &mut self,
        keys: &ClusterKeys,
        cluster_id: &str,
        proof: &str,
    ) -> Result<(), ProofError> {
        if self.wrong_proof_count >= WRONG_PROOF_COUNT_MAX {
            return Err(ProofError::TooMany);
        }
        let nonce = self.nonce.take().ok_or(ProofError::NoChallenge)?;
        let keys = keys.all();
        let mut keys = keys.iter();
        if !keys.any(|key| admin::proves(key, cluster_id, &nonce, proof)) {
            self.wrong_proof_count += 1;
            return Err(ProofError::Wrong);
        }
        self.has_proved_cluster_key = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Caller {
        let address = address.parse().expect("an address");
        Caller::new(Peer::Tcp(address), false)
    }

    fn keys() -> ClusterKeys {
        ClusterKeys::new([b"new".to_vec(), b"old".to_vec()])
    }

    #[test]
    fn the_right_follows_from_how_a_client_comes() {
        let right = |caller: &Caller| caller.admin_right();
        assert_eq!(
            right(&Caller::new(Peer::Unix, false)),
            Some(AdminRight::Unix)
        );
        for address in [
            "127.0.0.1:1",
            "127.8.9.10:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(
                right(&tcp(address)),
                Some(AdminRight::Loopback),
                "{address}"
            );
        }
        for address in [
            "10.0.0.1:1",
            "128.0.0.1:1",
            "[::2]:1",
            "[::ffff:10.0.0.1]:1",
            "[::127.0.0.1]:1",
        ] {
            assert_eq!(right(&tcp(address)), None, "{address}");
        }
        let signed = Caller::new(tcp("10.0.0.1:1").peer(), true);
        assert_eq!(right(&signed), Some(AdminRight::HmacKey));
    }

    #[test]
    fn any_key_can_be_proved_once_a_challenge() {
        for key in [&b"new"[..], b"old"] {
            let mut caller = tcp("10.0.0.1:1");
            let nonce = caller.challenge().expect("an open challenge").to_owned();
            let proof = admin::proof(key, "id", &nonce);
            assert_eq!(caller.authorize(&keys(), "id", &proof), Ok(()));
            assert_eq!(caller.admin_right(), Some(AdminRight::ClusterKey));
            let again = caller.authorize(&keys(), "id", &proof);
            assert_eq!(again, Err(ProofError::NoChallenge));
            let other = tcp("10.0.0.1:1").authorize(&keys(), "id", &proof);
            assert_eq!(other, Err(ProofError::NoChallenge));
        }
    }

    #[test]
    fn a_wrong_proof_closes_its_challenge_and_only_so_many_are_looked_at() {
        let mut caller = tcp("10.0.0.1:1");
        let first = caller.challenge().expect("an open challenge").to_owned();
        assert_ne!(Some(first.as_str()), caller.challenge());
        let proof = admin::proof(b"new", "id", &first);
        assert_eq!(
            caller.authorize(&keys(), "id", &proof),
            Err(ProofError::Wrong),
            "an earlier one"
        );
        for _ in 1..WRONG_PROOF_COUNT_MAX {
            let nonce = caller.challenge().expect("one may try again").to_owned();
            let wrong = admin::proof(b"guess", "id", &nonce);
            assert_eq!(
                caller.authorize(&keys(), "id", &wrong),
                Err(ProofError::Wrong)
            );
            let late = admin::proof(b"new", "id", &nonce);
            assert_eq!(
                caller.authorize(&keys(), "id", &late),
                Err(if caller.wrong_proof_count < WRONG_PROOF_COUNT_MAX {
                    ProofError::NoChallenge
                } else {
                    ProofError::TooMany
                })
            );
        }
        assert_eq!(caller.challenge(), None);
        assert_eq!(caller.admin_right(), None);
    }

    #[test]
    fn nothing_proves_a_key_that_is_not_there() {
        let none = ClusterKeys::default();
        let mut caller = tcp("10.0.0.1:1");
        let nonce = caller.challenge().expect("an open challenge").to_owned();
        let proof = admin::proof(b"", "id", &nonce);
        assert_eq!(
            caller.authorize(&none, "id", &proof),
            Err(ProofError::Wrong)
        );
        assert!(none.is_empty() && !keys().is_empty());
        assert!(!format!("{:?}", keys()).contains("new"));
    }
}
