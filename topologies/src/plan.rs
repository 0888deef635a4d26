//! `isobar plan`: what a topology would do, without doing it.
//!
//! For every source its topic and schema; for every dataset what it reads, its expectations, its optimised plan, its
//! columns with their Delta types, and its partitioning; for every cloud where each byte goes. Nothing is contacted
//! and no secret is looked up, so the plan can be made, shown and compared anywhere. The JSON form holds the same.

use std::fmt::{self, Write as _};

use arrow::datatypes::Schema;
use isobar_connectors::delta::schema::{DESCRIPTION, to_delta};
use isobar_schemas::MetadataColumn;
use isobar_schemas::fields::type_name;
use serde::Serialize;
use serde_json::Value as Json;

use crate::commit::quarantine_of;
use crate::error::Error;
use crate::quarantine;
use crate::spec::units::{ByteSize, HumanDuration};
use crate::spec::{CloudSpec, Contract, DatasetSpec, Owner, SourceSpec, Topology};
use crate::start;

/// What a topology would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Name of the topology.
    pub topology: String,
    /// Brokers to ask first.
    pub brokers: String,
    /// When it commits.
    pub commit: CommitPlan,
    /// Memory budget of the process, in bytes.
    pub memory_bytes_max: u64,
    /// What is read.
    pub sources: Vec<SourcePlan>,
    /// What is written.
    pub datasets: Vec<DatasetPlan>,
    /// Where it is written.
    pub clouds: Vec<CloudPlan>,
}

/// When a topology commits: as soon as either bound is reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CommitPlan {
    /// Longest time between two commits, in milliseconds.
    pub interval_ms: u64,
    /// Most bytes of Kafka payload between two commits.
    pub bytes_max: u64,
    /// Clouds that must hold a commit before it counts.
    pub majority: usize,
}

/// A source and the schema of its records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourcePlan {
    /// Its name, the table name in SQL.
    pub name: String,
    /// The Kafka topics: their names, separated by commas, or the pattern of their names, between slashes.
    pub topics: String,
    /// How payloads are encoded.
    pub format: Json,
    /// What happens to a record with an unknown field.
    pub unknown_fields: Json,
    /// Where a partition without a position starts.
    pub start: Json,
    /// The columns of decoded records.
    pub columns: Vec<InputColumn>,
}

/// A column of decoded records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputColumn {
    /// Its name.
    pub name: String,
    /// Its type, as a spec writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// The unit of its values.
    pub unit: Option<String>,
    /// What it means.
    pub description: Option<String>,
}

/// A dataset and how it is made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetPlan {
    /// Its name.
    pub name: String,
    /// What a row is.
    pub description: Option<String>,
    /// What its readers are promised, if there is a contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<ContractPlan>,
    /// The source it is made of.
    pub source: String,
    /// What Kafka knows about a record, as far as the dataset uses it.
    pub metadata_columns: Vec<String>,
    /// Conditions on records, in the order they are checked.
    pub expectations: Vec<ExpectationPlan>,
    /// The optimised plan.
    pub plan: String,
    /// Identity of the compiled plan, as commits record it.
    pub fingerprint: String,
    /// The columns of the dataset.
    pub output: Vec<OutputColumn>,
    /// Columns whose values become folders, outermost first.
    pub partition_by: Vec<String>,
    /// Compression of its files.
    pub compression: String,
    /// The columns of the quarantine beside it.
    pub quarantine: Vec<OutputColumn>,
}

/// A contract, but for its columns, which are those of the dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContractPlan {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Who answers for the dataset.
    pub owners: Vec<Owner>,
}

/// A condition on records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectationPlan {
    /// Its name.
    pub name: String,
    /// The condition.
    pub check: String,
    /// What happens to a record that fails it.
    pub action: Json,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputColumn {
    /// Its name.
    pub name: String,
    /// Its type, as a spec writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its type, as the Delta log writes it.
    pub delta_type: Json,
    /// Whether it may be null.
    pub nullable: bool,
    /// What its readers are told about it, with its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A cloud and what goes where in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CloudPlan {
    /// Its name.
    pub name: String,
    /// Its location, without secrets.
    pub url: String,
    /// What is written below it.
    pub writes: Vec<WritePlan>,
}

/// Something that is written to a cloud.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WritePlan {
    /// Where, as a whole URL; `<…>` stands for what differs from object to object.
    pub url: String,
    /// What it holds.
    pub content: String,
}

/// The plan of `topology`.
///
/// # Errors
/// [`Error::Configuration`] if a query does not compile or its result cannot be stored. A loaded topology was checked
/// for both.
pub fn plan(topology: &Topology) -> Result<Plan, Error> {
    let datasets = topology.datasets.iter().map(|dataset| dataset_plan(topology, dataset));
    Ok(Plan {
        topology: topology.name.clone(),
        brokers: topology.kafka.brokers.clone(),
        commit: CommitPlan {
            interval_ms: u64::try_from(topology.commit_interval.as_millis()).unwrap_or(u64::MAX),
            bytes_max: topology.commit_bytes_max,
            majority: topology.clouds.len() / 2 + 1,
        },
        memory_bytes_max: topology.memory_bytes_max,
        sources: topology.sources.iter().map(source_plan).collect(),
        datasets: datasets.collect::<Result<_, _>>()?,
        clouds: topology.clouds.iter().map(|cloud| cloud_plan(topology, cloud)).collect(),
    })
}

/// A plain enum as the spec writes it.
fn as_written<T: Serialize>(value: T) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

fn source_plan(source: &SourceSpec) -> SourcePlan {
    let columns = source.schema.fields().iter().enumerate().map(|(index, field)| {
        // Columns that an envelope adds come after the fields.
        let spec = source.fields.0.get(index).map(|(_, spec)| spec);
        InputColumn {
            name: field.name().clone(),
            type_name: type_name(field.data_type()),
            nullable: field.is_nullable(),
            unit: spec.and_then(|spec| spec.unit.clone()),
            description: spec.and_then(|spec| spec.description.clone()),
        }
    });
    SourcePlan {
        name: source.name.clone(),
        topics: source.topics.to_string(),
        format: as_written(source.format),
        unknown_fields: as_written(source.unknown_fields),
        start: as_written(source.start),
        columns: columns.collect(),
    }
}

fn dataset_plan(topology: &Topology, dataset: &DatasetSpec) -> Result<DatasetPlan, Error> {
    let source = &topology.sources[dataset.source];
    let wrong = |problem: &dyn std::error::Error| {
        Error::Configuration(format!("dataset {}: {}", dataset.name, crate::chain_of(problem)))
    };
    let (transform, _) = start::transform_of(topology, dataset).map_err(|error| wrong(&error))?;
    let expectations = dataset.expectations.iter().map(|expectation| ExpectationPlan {
        name: expectation.name.clone(),
        check: expectation.check.clone(),
        action: as_written(expectation.action),
    });
    let contract = dataset.contract.as_ref();
    let columns = match contract {
        Some(contract) => contract.documented(transform.output_schema()),
        None => transform.output_schema().clone(),
    };
    Ok(DatasetPlan {
        name: dataset.name.clone(),
        description: dataset.description.clone(),
        contract: contract.map(|Contract { name, version, owners, .. }| ContractPlan {
            name: name.clone(),
            version: version.clone(),
            owners: owners.clone(),
        }),
        source: source.name.clone(),
        metadata_columns: transform
            .metadata_columns()
            .iter()
            .map(|column| column.name().to_owned())
            .collect(),
        expectations: expectations.collect(),
        plan: transform.explain(),
        fingerprint: transform.fingerprint().to_owned(),
        output: output_columns(&columns).map_err(|error| wrong(&error))?,
        partition_by: dataset.partition_by.clone(),
        compression: dataset.compression.to_string(),
        quarantine: output_columns(&quarantine::schema(transform.uses(MetadataColumn::Headers)))
            .map_err(|error| wrong(&error))?,
    })
}

fn output_columns(schema: &Schema) -> Result<Vec<OutputColumn>, isobar_connectors::Error> {
    let delta: Json = serde_json::from_str(&to_delta(schema)?).unwrap_or_default();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| OutputColumn {
        name: field.name().clone(),
        type_name: type_name(field.data_type()),
        delta_type: delta.pointer(&format!("/fields/{index}/type")).cloned().unwrap_or_default(),
        nullable: field.is_nullable(),
        comment: field.metadata().get(DESCRIPTION).cloned(),
    });
    Ok(columns.collect())
}

fn cloud_plan(topology: &Topology, cloud: &CloudSpec) -> CloudPlan {
    let base = cloud.url.as_str().trim_end_matches('/');
    let mut writes = Vec::new();
    let mut write = |path: String, content: String| {
        writes.push(WritePlan { url: format!("{base}/{path}"), content });
    };
    for dataset in &topology.datasets {
        let folders: String =
            dataset.partition_by.iter().map(|column| format!("{column}=<{column}>/")).collect();
        let (name, quarantine) = (&dataset.name, quarantine_of(&dataset.name));
        write(format!("datasets/{name}/{folders}<file>.parquet"), format!("rows of {name}"));
        write(format!("datasets/{name}/_delta_log/<version>.json"), format!("log of {name}"));
        write(format!("datasets/{quarantine}/<file>.parquet"), format!("rejected records of {name}"));
        write(format!("datasets/{quarantine}/_delta_log/<version>.json"), format!("log of {quarantine}"));
    }
    write(format!("control/{}/", topology.name), "claims of epochs and the decision log".to_owned());
    CloudPlan { name: cloud.name.clone(), url: cloud.url.to_string(), writes }
}

impl Plan {
    /// The plan as text for people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let interval = HumanDuration(std::time::Duration::from_millis(self.commit.interval_ms));
        writeln!(out, "topology {}", self.topology)?;
        writeln!(out, "  reads    {}", self.brokers)?;
        writeln!(
            out,
            "  commits  every {interval} or {} of payload, decided by {} of {}",
            ByteSize(self.commit.bytes_max),
            self.commit.majority,
            match self.clouds.len() {
                1 => "1 cloud".to_owned(),
                clouds => format!("{clouds} clouds"),
            },
        )?;
        writeln!(out, "  memory   {}", ByteSize(self.memory_bytes_max))?;
        for source in &self.sources {
            source.write(out)?;
        }
        for dataset in &self.datasets {
            dataset.write(out)?;
        }
        self.write_clouds(out)
    }
}

impl Plan {
    /// The clouds, then once what lies below each of them, since it is the same.
    fn write_clouds(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nclouds")?;
        let rows = self.clouds.iter().map(|cloud| [cloud.name.clone(), cloud.url.clone()]);
        write_columns(out, rows.collect())?;
        let Some(cloud) = self.clouds.first() else { return Ok(()) };
        writeln!(out, "  in each of them, the same bytes")?;
        let rows = cloud.writes.iter().map(|write| {
            let path = write.url.strip_prefix(cloud.url.trim_end_matches('/')).unwrap_or(&write.url);
            [path.trim_start_matches('/').to_owned(), write.content.clone()]
        });
        write_columns(out, rows.collect())
    }
}

/// A plain enum's word.
fn word(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}

impl SourcePlan {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nsource {}", self.name)?;
        writeln!(out, "  topics {}, {}, from {}", self.topics, word(&self.format), word(&self.start))?;
        writeln!(out, "  records with unknown fields: {}", word(&self.unknown_fields))?;
        let rows = self.columns.iter().map(|column| {
            let nullable = if column.nullable { "" } else { "not null" };
            let unit = column.unit.as_deref().map(|unit| format!("[{unit}] ")).unwrap_or_default();
            let about = format!("{unit}{}", column.description.as_deref().unwrap_or_default());
            [column.name.clone(), column.type_name.clone(), nullable.to_owned(), about]
        });
        write_columns(out, rows.collect())
    }
}

impl DatasetPlan {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\ndataset {} from {}", self.name, self.source)?;
        if let Some(description) = &self.description {
            writeln!(out, "  {description}")?;
        }
        if let Some(contract) = &self.contract {
            writeln!(out, "  contract {contract}")?;
        }
        if !self.metadata_columns.is_empty() {
            writeln!(out, "  uses {}", self.metadata_columns.join(", "))?;
        }
        if !self.expectations.is_empty() {
            writeln!(out, "  expects, in this order")?;
            let rows = self.expectations.iter().map(|expectation| {
                [expectation.name.clone(), word(&expectation.action).to_owned(), expectation.check.clone()]
            });
            write_columns(out, rows.collect())?;
        }
        writeln!(out, "  plan {}", self.fingerprint)?;
        for line in self.plan.lines() {
            writeln!(out, "{}", format!("    {line}").trim_end())?;
        }
        writeln!(out, "  columns")?;
        write_columns(out, self.output.iter().map(|column| self.describe(column)).collect())?;
        let folders: Vec<String> =
            self.partition_by.iter().map(|column| format!("{column}=<{column}>/")).collect();
        writeln!(out, "  files {}<file>.parquet, {}", folders.concat(), self.compression)
    }

    fn describe(&self, column: &OutputColumn) -> [String; 5] {
        let delta_type = match &column.delta_type {
            Json::String(name) => format!("delta {name}"),
            nested => format!("delta {}", word(&nested["type"])),
        };
        let nullable = if column.nullable { "" } else { "not null" };
        let folder = if self.partition_by.contains(&column.name) { "folder" } else { "" };
        let notes: Vec<&str> = [nullable, folder].into_iter().filter(|note| !note.is_empty()).collect();
        // A line is a line, whatever the text has in it.
        let words: Vec<&str> = column.comment.iter().flat_map(|comment| comment.split_whitespace()).collect();
        [column.name.clone(), column.type_name.clone(), delta_type, notes.join(", "), words.join(" ")]
    }
}

impl fmt::Display for ContractPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        for (index, owner) in self.owners.iter().enumerate() {
            f.write_str(if index == 0 { ", owned by " } else { ", " })?;
            f.write_str(&owner.name)?;
            if let Some(contact) = &owner.contact {
                write!(f, " ({contact})")?;
            }
        }
        Ok(())
    }
}

/// Writes `rows` with their cells below each other.
fn write_columns<const N: usize>(out: &mut String, rows: Vec<[String; N]>) -> std::fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "    {}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::{self, CheckOptions};

    fn example() -> Plan {
        let text = spec::schema::EXAMPLE;
        let topology =
            spec::check_text(text, "topology.yaml", Path::new("/specs"), CheckOptions::default()).unwrap();
        plan(&topology).unwrap()
    }

    #[test]
    fn the_plan_says_what_is_read_made_and_written() {
        let plan = example();
        assert_eq!(plan.commit, CommitPlan { interval_ms: 10_000, bytes_max: 256 << 20, majority: 2 });
        assert_eq!(plan.sources[0].columns[2].unit.as_deref(), Some("hhmm local"));
        let dataset = &plan.datasets[0];
        assert_eq!(dataset.metadata_columns, ["_partition", "_offset"]);
        let late = dataset.output.iter().find(|column| column.name == "late").unwrap();
        assert_eq!((late.type_name.as_str(), &late.delta_type), ("boolean", &Json::from("boolean")));
        assert_eq!(dataset.expectations[1].action, "quarantine");
        assert!(dataset.plan.contains("arr_delay"), "{}", dataset.plan);
        assert_eq!(dataset.quarantine[0].name, "reason");
        let urls: Vec<&str> = plan.clouds[2].writes.iter().map(|write| write.url.as_str()).collect();
        assert_eq!(
            urls,
            [
                "gs://flight-delays/isobar/datasets/flight_features/month=<month>/<file>.parquet",
                "gs://flight-delays/isobar/datasets/flight_features/_delta_log/<version>.json",
                "gs://flight-delays/isobar/datasets/flight_features.quarantine/<file>.parquet",
                "gs://flight-delays/isobar/datasets/flight_features.quarantine/_delta_log/<version>.json",
                "gs://flight-delays/isobar/control/flight_delays/",
            ]
        );
    }

    #[test]
    fn the_text_for_people_holds_the_same_and_no_line_ends_in_blanks() {
        let text = example().render();
        for expected in [
            "topology flight_delays\n",
            "  commits  every 10s or 256MiB of payload, decided by 2 of 3 clouds\n",
            "source flights\n",
            "    dep_time   int32     [hhmm local] Time of departure; null for a cancelled flight\n",
            "    departed       drop        dep_time IS NOT NULL\n",
            "  files month=<month>/<file>.parquet, zstd(1)\n",
            "    aws    s3://flight-delays/isobar\n",
            "    datasets/flight_features/month=<month>/<file>.parquet          rows of flight_features\n",
            "    control/flight_delays/",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn what_readers_are_promised_is_shown_with_the_columns() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("contract.yaml"), spec::schema::CONTRACT_EXAMPLE).unwrap();
        let own = "description: One row per departed flight with a known arrival delay.";
        let text = spec::schema::EXAMPLE.replace(own, "contract: ./contract.yaml");
        let topology = spec::check_text(&text, "t.yaml", folder.path(), CheckOptions::default());
        let plan = plan(&topology.unwrap_or_else(|problems| panic!("{problems}"))).unwrap();
        let text = plan.render();
        for expected in [
            "dataset flight_features from flights\n  One row per departed flight with a known arrival delay.\n  contract flight features 1.2.0, owned by Flight data (flights@example.com)\n",
            "Delay of the arrival; negative is early [minutes]\n",
            "    plausible_month  quarantine  month BETWEEN 1 AND 12\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
        let json = serde_json::to_value(&plan).unwrap();
        let dataset = &json["datasets"][0];
        assert_eq!(dataset["contract"]["owners"][0]["contact"], "flights@example.com");
        assert_eq!(dataset["output"][3]["comment"], "Time of departure [hhmm local]");
        assert_eq!(dataset["output"][0].get("comment"), None);
    }

    #[test]
    fn no_secret_and_no_reference_is_in_a_plan() {
        let json = serde_json::to_string(&example()).unwrap();
        assert!(!json.contains("${") && !json.contains("secret"), "{json}");
    }
}
