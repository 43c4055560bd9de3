//! A plain TCP echo server, which `nsctl bench echo` measures. It is the baseline for a name server
//! on the same machine: for each read it does the minimum that any server must do, one read and one
//! write.
//!
//! usage: tcp_echo [PORT]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "9099".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("echo on {}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream
                    .write_all(buffer.get(..count).unwrap_or_default())
                    .await
                    .is_err()
                {
                    break;
                }
            }
        });
    }
}
