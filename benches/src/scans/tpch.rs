//! TPC-H: its tables, from the files of `tpchgen-cli`, and its queries.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Options, WHOLE, publish_file};
use crate::dataset::Place;

pub(super) const TABLES: &[&str] =
    &["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

pub(super) const QUERIES: &[&str] = &[
    include_str!("../../queries/tpch/01.sql"),
    include_str!("../../queries/tpch/02.sql"),
    include_str!("../../queries/tpch/03.sql"),
    include_str!("../../queries/tpch/04.sql"),
    include_str!("../../queries/tpch/05.sql"),
    include_str!("../../queries/tpch/06.sql"),
    include_str!("../../queries/tpch/07.sql"),
    include_str!("../../queries/tpch/08.sql"),
    include_str!("../../queries/tpch/09.sql"),
    include_str!("../../queries/tpch/10.sql"),
    include_str!("../../queries/tpch/11.sql"),
    include_str!("../../queries/tpch/12.sql"),
    include_str!("../../queries/tpch/13.sql"),
    include_str!("../../queries/tpch/14.sql"),
    include_str!("../../queries/tpch/15.sql"),
    include_str!("../../queries/tpch/16.sql"),
    include_str!("../../queries/tpch/17.sql"),
    include_str!("../../queries/tpch/18.sql"),
    include_str!("../../queries/tpch/19.sql"),
    include_str!("../../queries/tpch/20.sql"),
    include_str!("../../queries/tpch/21.sql"),
    include_str!("../../queries/tpch/22.sql"),
];

/// The tables at the scale that is asked for, made unless they are there.
pub(super) async fn place(options: &Options) -> Result<Place> {
    let directory = options.directory.join(format!("tpch-{}", options.scale));
    let place = Place::open(&directory, TABLES, options.memory.as_deref()).await?;
    for table in TABLES.iter().filter(|table| !place.has(table, WHOLE)) {
        let generated = directory.join("generated");
        let file = generated.join(format!("{table}.parquet"));
        if !file.exists() {
            generate(options, table, &generated)?;
        }
        publish_file(&place, table, &file, options.file_rows).await?;
        // It is in the dataset now.
        std::fs::remove_file(&file)?;
    }
    Ok(place)
}

fn generate(options: &Options, table: &str, directory: &std::path::Path) -> Result<()> {
    let status = Command::new(&options.tpchgen)
        .args(["parquet", "--scale-factor", &options.scale, "--tables", table, "--output-dir"])
        .arg(directory)
        .status()
        .with_context(|| {
            format!(
                "start {}: install it with pip, from benches/rivals/requirements.txt, or name it with --tpchgen",
                options.tpchgen.display()
            )
        })?;
    ensure!(status.success(), "{} ended with {status}", options.tpchgen.display());
    Ok(())
}
