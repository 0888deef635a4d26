//! The simulator of Google Cloud Storage as a process of its own: `isobar-gcs-sim [ADDRESS] [BUCKET…]`.
//!
//! Prints one line with its address when it is ready, and serves until it is killed.

use isobar_tests::gcs::GcsSimulator;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, buckets) = match arguments.split_first() {
        Some((address, buckets)) => (address.as_str(), buckets.iter().map(String::as_str).collect()),
        None => ("127.0.0.1:0", Vec::new()),
    };
    let buckets = if buckets.is_empty() { vec!["isobar"] } else { buckets };
    let simulator = GcsSimulator::start(address, &buckets).await?;
    println!("{}", simulator.address());
    simulator.serve_for_ever().await;
    Ok(())
}
