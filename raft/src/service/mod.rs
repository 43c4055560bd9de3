//! Dispatches the requests of other nodes to the parts of this node that answer them.
//!
//! The peer server runs before Raft does, because nodes that bootstrap or join a cluster receive requests too.
//! A request that cannot be answered yet, or no longer, gets `Unavailable`, which means that nothing was
//! changed.

pub(crate) mod leader;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde_bytes::ByteBuf;

use crate::codec::{self, LogIdRecord};
use crate::disk_space::Disk;
use crate::environment::aside;
use crate::leader::contact::Contact;
use crate::membership::Admin;
use crate::replication::snapshot_receive::Receiver;
use crate::report::Reporter;
use crate::rpc::message::{
    AppendAnswer, FoundAnswer, FoundAsk, Request, Response, VoteAnswer, VoteAsk,
};
use crate::rpc::server::{Answer, Caller};
use crate::service::leader::{Lead, Word};
use crate::store::Raft;
use crate::types::{LogEntry, LogId, TypeConfig, Vote};

/// Answers another founder's question. May block on the disk.
type AnswerFounder = dyn Fn(FoundAsk) -> FoundAnswer + Send + Sync;

/// The dispatcher of requests. See the module's documentation.
pub(crate) struct Incoming {
    answer_founder: Arc<AnswerFounder>,
    services: OnceLock<Services>,
    /// True once no request is answered any more.
    stopped: AtomicBool,
}

/// The parts that answer requests on a node that belongs to a cluster.
pub(crate) struct Services {
    pub(crate) raft: Raft,
    /// `None` on a single-node cluster.
    pub(crate) admin: Option<Arc<Admin>>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) snapshots: Receiver,
    pub(crate) lead: Lead,
    pub(crate) contact: Arc<Contact>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl Incoming {
    /// Creates the services of a node that is starting: before there is a cluster, other founders may ask it.
    pub(crate) fn new(
        answer_founder: impl Fn(FoundAsk) -> FoundAnswer + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer_founder: Arc::new(answer_founder),
            services: OnceLock::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Answers all requests from now on: Raft is running.
    pub(crate) fn runs(&self, services: Services) {
        // Raft starts once, so the services are set once.
        let _ = self.services.set(services);
    }

    /// Answers no request from now on.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

impl Answer for Incoming {
    async fn answer(&self, caller: Caller, request: Request) -> Response {
        if self.stopped.load(Ordering::Acquire) {
            return Response::Unavailable("it is stopping".to_owned());
        }
        match (request, self.services.get()) {
            (Request::Found(ask), _) => {
                let answer = Arc::clone(&self.answer_founder);
                let answered = aside(move || answer(ask)).await;
                match answered {
                    Ok(answer) => Response::Found(answer),
                    Err(error) => Response::Unavailable(error.to_string()),
                }
            }
            (_, None) => Response::Unavailable("it is starting".to_owned()),
            (Request::Join(ask), Some(services)) => match &services.admin {
                Some(admin) => Response::Join(admin.answer_join(ask, caller.is_member).await),
                None => Response::Unavailable("it runs alone".to_owned()),
            },
            (_, Some(_)) if !caller.is_member => {
                Response::Unavailable("the caller does not belong to this cluster".to_owned())
            }
            (request, Some(services)) => services.answer(caller, request).await,
        }
    }
}

impl Services {
    async fn answer(&self, caller: Caller, request: Request) -> Response {
        let raft = &self.raft;
        match request {
            Request::Append {
                vote,
                prev_log_id,
                entries,
                leader_commit,
            } => {
                let len = entries.iter().map(|entry| entry.len() as u64).sum();
                // Heartbeats pass: they write nothing, and both leader and follower depend on them.
                if !entries.is_empty()
                    && let Err(reason) = self.disk.takes_entries(len)
                {
                    return Response::Unavailable(reason);
                }
                let entries = match decode_entries(prev_log_id, &entries) {
                    Ok(entries) => entries,
                    Err(error) => return Response::Unavailable(error.to_string()),
                };
                let request = AppendEntriesRequest {
                    vote: vote.into(),
                    prev_log_id: prev_log_id.map(LogId::from),
                    entries,
                    leader_commit: leader_commit.map(LogId::from),
                };
                // The message counts on its arrival, not when the disk has synced its entries.
                if request.vote >= raft.metrics().borrow_watched().vote {
                    self.contact.heard();
                }
                Response::Append(match raft.append_entries(request).await {
                    Ok(AppendEntriesResponse::Success) => AppendAnswer::Success,
                    Ok(AppendEntriesResponse::PartialSuccess(id)) => {
                        AppendAnswer::PartialSuccess(id.as_ref().map(LogIdRecord::from))
                    }
                    Ok(AppendEntriesResponse::Conflict) => AppendAnswer::Conflict,
                    Ok(AppendEntriesResponse::HigherVote(vote)) => {
                        AppendAnswer::HigherVote((&vote).into())
                    }
                    Err(error) => AppendAnswer::Stopped(error.to_string()),
                })
            }
            Request::Vote(ask) => match raft.vote(vote_request(ask)).await {
                Ok(response) => Response::Vote(vote_answer(&response)),
                Err(error) => Response::Unavailable(error.to_string()),
            },
            Request::PreVote(ask) => match raft.pre_vote(vote_request(ask)).await {
                Ok(response) => Response::PreVote(vote_answer(&response)),
                Err(error) => Response::Unavailable(error.to_string()),
            },
            Request::TransferLeader {
                from_leader,
                to,
                last_log_id,
            } => {
                let from_leader = Vote::from(from_leader);
                let last_log_id = last_log_id.map(LogId::from);
                let request = TransferLeaderRequest::new(from_leader, to, last_log_id);
                match raft.handle_transfer_leader(request).await {
                    Ok(result) => {
                        Response::TransferLeader(result.map_err(|error| error.to_string()))
                    }
                    Err(error) => Response::Unavailable(error.to_string()),
                }
            }
            Request::Snapshot(part) => Response::Snapshot(self.snapshots.handle(part).await),
            Request::Report => match self.reporter.report() {
                Ok(report) => Response::Report(Box::new(report)),
                Err(error) => Response::Unavailable(error.to_string()),
            },
            Request::Change(change) => match &self.admin {
                Some(admin) => admin.answer_change(change).await,
                None => Response::Unavailable("it runs alone".to_owned()),
            },
            Request::Disk(news) => {
                let term = raft.metrics().borrow_watched().current_term;
                Response::Disk(self.disk.heard(news, term))
            }
            Request::Propose(record) => Response::Propose(self.lead.propose(record).await),
            Request::ReadIndex => Response::ReadIndex(self.lead.read_index(None).await),
            Request::AcknowledgedReadIndex(vote) => {
                let word = caller.node_id.map(|node| Word {
                    node,
                    vote: vote.into(),
                });
                Response::ReadIndex(self.lead.read_index(word).await)
            }
            Request::Found(_) | Request::Join(_) => {
                Response::Unavailable("this is answered elsewhere".to_owned())
            }
        }
    }
}

/// Decodes the entries that follow `prev_log_id`.
fn decode_entries(
    prev_log_id: Option<LogIdRecord>,
    entries: &[ByteBuf],
) -> Result<Vec<LogEntry>, codec::CodecError> {
    let first = prev_log_id.map_or(0, |id| LogId::from(id).index + 1);
    let numbered = (first..).zip(entries);
    numbered
        .map(|(index, bytes)| codec::decode_log_entry(index, bytes))
        .collect()
}

fn vote_request(ask: VoteAsk) -> VoteRequest<TypeConfig> {
    VoteRequest {
        vote: ask.vote.into(),
        last_log_id: ask.last_log_id.map(LogId::from),
        leadership_transfer: ask.leadership_transfer,
    }
}

fn vote_answer(response: &VoteResponse<TypeConfig>) -> VoteAnswer {
    VoteAnswer {
        vote: (&response.vote).into(),
        vote_granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(LogIdRecord::from),
    }
}
