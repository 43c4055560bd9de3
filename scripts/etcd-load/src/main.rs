//! Closed-loop load on etcd: each connection sends its next request when the reply to the last one has
//! arrived and been checked, as `nsctl bench` does with Hearth. Keys and values are the names and URIs
//! of that load, and the report has the same fields.
//!
//! The program implements gRPC itself over HTTP/2, with one connection per client: each request is one
//! encoded message, one write and one read, so that most of a shared machine is left to etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::{BufMut, Bytes, BytesMut};
use clap::{Parser, ValueEnum};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Bytes before each gRPC message: not compressed, and its length in big-endian order.
const PREFIX_LEN: usize = 5;

/// Keys that each connection puts in turn, as in `nsctl bench register`.
const OWN_KEY_COUNT: usize = 100;

/// Connections that put the keys for the gets before the measurement.
const PREPARING_COUNT: usize = 64;

/// Put a load on etcd and print what it measured as JSON
#[derive(Debug, Clone, Parser)]
struct Options {
    /// What each request does
    #[arg(value_enum)]
    operation: Operation,
    /// Nodes, over which the connections are spread
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Connections, each with one request under way
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds to run before
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Threads that put the load on
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Keys that gets pick from
    #[arg(long, default_value_t = 1000)]
    names: usize,
    /// Take the keys that an earlier load of gets has put
    #[arg(long)]
    reuse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Put one of the connection's own keys
    Put,
    /// Get a key picked at random, linearizable
    Get,
    /// The same, serializable: from the node's own copy
    SerializableGet,
}

// The messages of etcd's `rpc.proto` and `kv.proto`, with only the fields that are used here.

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

fn shared_key(index: usize) -> String {
    format!("hearth.bench.shared.{index:08}")
}

fn shared_value(index: usize) -> String {
    format!("PYRO:obj_{index:032x}@localhost:{}", 1_024 + index % 60_000)
}

/// One client: a connection with one request under way.
struct Client {
    endpoint: String,
    send: SendRequest<Bytes>,
    /// State of the pseudo-random number generator.
    random: u64,
    put_count: usize,
    number: usize,
}

impl Client {
    async fn connect(endpoint: &str, number: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(endpoint)
            .await
            .with_context(|| endpoint.to_owned())?;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .handshake(stream)
            .await?;
        // The task ends with the client; if it ends earlier, the client's next request fails.
        tokio::spawn(connection);
        Ok(Self {
            endpoint: endpoint.to_owned(),
            send,
            random: 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1),
            put_count: 0,
            number,
        })
    }

    async fn step(&mut self, options: &Options) -> anyhow::Result<()> {
        if options.operation == Operation::Put {
            let count = self.put_count;
            self.put_count += 1;
            let key = format!("hearth.bench.own.{}.{}", self.number, count % OWN_KEY_COUNT);
            let port = 1_024 + self.number;
            return self
                .put(key, format!("PYRO:obj_{count:032x}@localhost:{port}"))
                .await;
        }
        let index = self.below(options.names);
        let request = RangeRequest {
            key: shared_key(index).into(),
            serializable: options.operation == Operation::SerializableGet,
        };
        let reply: RangeResponse = self.call("/etcdserverpb.KV/Range", &request).await?;
        match reply.kvs.as_slice() {
            [pair] if pair.value == shared_value(index).as_bytes() => Ok(()),
            other => bail!("wrong answer: {other:?}"),
        }
    }

    async fn put(&mut self, key: String, value: String) -> anyhow::Result<()> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
        };
        let reply: PutResponse = self.call("/etcdserverpb.KV/Put", &request).await?;
        match reply.header {
            Some(header) if header.revision > 0 => Ok(()),
            other => bail!("wrong answer: {other:?}"),
        }
    }

    async fn call<R: Message + Default>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> anyhow::Result<R> {
        let len = message.encoded_len();
        let mut body = BytesMut::with_capacity(PREFIX_LEN + len);
        body.put_u8(0);
        body.put_u32(u32::try_from(len)?);
        message.encode(&mut body)?;
        let request = Request::post(format!("http://{}{path}", self.endpoint))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (reply, mut out) = std::future::poll_fn(|context| self.send.poll_ready(context))
            .await
            .and_then(|()| self.send.send_request(request, false))?;
        out.send_data(body.freeze(), true)?;
        let (head, mut stream) = reply.await?.into_parts();
        let mut received = BytesMut::new();
        while let Some(part) = stream.data().await {
            let part = part?;
            stream.flow_control().release_capacity(part.len())?;
            received.extend_from_slice(&part);
        }
        let trailers = stream.trailers().await?;
        check_status(trailers.as_ref().unwrap_or(&head.headers))?;
        let message = received
            .get(PREFIX_LEN..)
            .context("an answer without a message")?;
        Ok(R::decode(message)?)
    }

    /// Returns a pseudo-random number below `count` (xorshift).
    fn below(&mut self, count: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % count as u64) as usize
    }
}

fn check_status(headers: &HeaderMap) -> anyhow::Result<()> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        _ => bail!("{:?}", headers.get("grpc-message")),
    }
}

/// The measurements of some connections.
struct Tally {
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            errors: BTreeMap::new(),
        })
    }

    fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.latency.add(&other.latency)?;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        Ok(())
    }
}

async fn drive(mut client: Client, options: &Options, start: Instant) -> anyhow::Result<Tally> {
    let start = start + Duration::from_secs_f64(options.warm_up);
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut tally = Tally::new()?;
    let mut began = Instant::now();
    while began < end {
        let done = client.step(options).await;
        let finished = Instant::now();
        if began >= start {
            let nanoseconds = u64::try_from((finished - began).as_nanos())?;
            tally.latency.saturating_record(nanoseconds);
            if let Err(error) = done {
                *tally.errors.entry(error.to_string()).or_default() += 1;
            }
        } else {
            done?;
        }
        began = finished;
    }
    Ok(tally)
}

/// Runs one thread's share of the connections.
async fn share(options: Arc<Options>, thread: usize, ready: Arc<Barrier>) -> anyhow::Result<Tally> {
    let mut clients = Vec::new();
    for number in (thread..options.connections).step_by(options.threads) {
        let endpoint = options.endpoints.get(number % options.endpoints.len());
        clients.push(Client::connect(endpoint.context("no endpoint")?, number).await?);
    }
    ready.wait().await;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients {
        let options = Arc::clone(&options);
        tasks.spawn(async move { drive(client, &options, start).await });
    }
    let mut total = Tally::new()?;
    while let Some(tally) = tasks.join_next().await {
        total.add(tally??)?;
    }
    Ok(total)
}

/// Puts the keys that gets read, over several connections.
async fn prepare(options: &Arc<Options>) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..PREPARING_COUNT {
        let options = Arc::clone(options);
        tasks.spawn(async move {
            let endpoint = options.endpoints.get(number % options.endpoints.len());
            let mut client = Client::connect(endpoint.context("no endpoint")?, number).await?;
            for index in (number..options.names).step_by(PREPARING_COUNT) {
                client.put(shared_key(index), shared_value(index)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn main() -> anyhow::Result<()> {
    let options = Arc::new(Options::parse());
    if options.connections == 0 || options.names == 0 || options.threads == 0 {
        bail!("--connections, --names and --threads must be at least 1");
    }
    if options.operation != Operation::Put && !options.reuse {
        runtime()?.block_on(prepare(&options))?;
    }
    let ready = Arc::new(Barrier::new(options.threads));
    let threads: Vec<_> = (0..options.threads)
        .map(|thread| {
            let (options, ready) = (Arc::clone(&options), Arc::clone(&ready));
            std::thread::spawn(move || runtime()?.block_on(share(options, thread, ready)))
        })
        .collect();
    let mut total = Tally::new()?;
    for thread in threads {
        total.add(thread.join().map_err(|_| anyhow!("a thread ended"))??)?;
    }
    let microseconds = |quantile| total.latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let error_count: u64 = total.errors.values().sum();
    let right_count = total.latency.len() - error_count;
    let operation = options.operation.to_possible_value();
    let report = serde_json::json!({
        "server": options.endpoints.join(","),
        "operation": operation.map(|value| value.get_name().to_owned()),
        "connections": options.connections,
        "seconds": options.seconds,
        "operations": total.latency.len(),
        "errors": error_count,
        "errors_by_kind": total.errors,
        "operations_per_second": (right_count as f64 / options.seconds).round(),
        "latency_us": {
            "p50": microseconds(0.5),
            "p99": microseconds(0.99),
            "p999": microseconds(0.999),
            "max": total.latency.max() as f64 / 1_000.0,
            "mean": total.latency.mean() / 1_000.0,
        },
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
