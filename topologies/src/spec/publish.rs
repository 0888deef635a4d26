//! `publish` of a dataset: the topic that gets its rows.

use arrow::datatypes::{Schema, SchemaRef};
use serde_json::Value as Json;

use super::check::Place;
use super::raw::{self, KeyColumns};
use super::resolve::Resolver;
use super::suggest::did_you_mean;
use super::yaml::pointer_to;
use super::{DatasetSpec, Kafka, SourceSpec};
use crate::query::json_problem;

/// The Kafka topic that gets the rows of a dataset.
#[derive(Debug, Clone)]
pub struct PublishSpec {
    /// The topic. No source of the topology reads it.
    pub topic: String,
    /// The columns of the key, of the query's. Empty: there is none.
    pub key: Vec<String>,
    /// The columns that are sent, of the query's; `None`: all.
    pub columns: Option<Vec<String>>,
    /// The group that keeps the progress, and the transactional id. Nothing else of the topology has the same.
    pub group: String,
    /// The version of the dataset to begin with.
    pub from_version: u64,
    /// The cluster of the topic; `None`: the one that is read.
    pub kafka: Option<Kafka>,
}

impl Resolver<'_> {
    /// What gets the rows of dataset `name`. Not a topic that the topology reads: they would go round for ever.
    pub(super) fn publish(
        &mut self,
        name: &str,
        pointer: &str,
        sources: &[(String, Option<SourceSpec>)],
    ) -> Option<PublishSpec> {
        let written = self.typed::<Option<raw::Publish>>(pointer).flatten()?;
        let raw::Publish {
            topic,
            key,
            format: raw::PublishFormat::Json,
            columns,
            group,
            from_version,
            kafka,
        } = written;
        let reads = |(_, source): &&(String, Option<SourceSpec>)| {
            source.as_ref().is_some_and(|source| source.topics.contains(&topic))
        };
        // Another cluster may have a topic of the same name. That it is another one is seen when it is asked.
        if kafka.is_none()
            && let Some((reader, _)) = sources.iter().find(reads)
        {
            let message =
                format!("`{topic}` is read by the source `{reader}`: its rows would come back as records");
            let suggestion = "name a topic that this topology does not read; another topology may read it";
            self.report(format!("{pointer}/topic"), Place::Value, message, Some(suggestion.to_owned()));
        }
        let kafka = match kafka {
            Some(_) => Some(self.kafka(&format!("{pointer}/kafka"))?),
            None => None,
        };
        let key = match key {
            None => Vec::new(),
            Some(KeyColumns::One(column)) => vec![column],
            Some(KeyColumns::Many(columns)) => {
                self.check_any(&format!("{pointer}/key"), "key", &columns);
                columns
            }
        };
        if let Some(columns) = &columns {
            self.check_any(&format!("{pointer}/columns"), "columns", columns);
        }
        let topology = self.value.pointer("/topology").and_then(Json::as_str).unwrap_or_default();
        let group = group.unwrap_or_else(|| format!("{topology}.{name}.publish"));
        Some(PublishSpec { topic, key, columns, group, from_version, kafka })
    }

    fn check_any(&mut self, pointer: &str, field: &str, columns: &[String]) {
        if columns.is_empty() {
            let message = format!("`{field}` names no column");
            self.report(pointer, Place::Value, message, Some("leave it out, or name one".to_owned()));
        }
    }

    /// What is sent and what is the key must be columns of the query, each once, and JSON must have a place for them.
    pub(super) fn check_published_columns(&mut self, pointer: &str, spec: &PublishSpec, schema: &SchemaRef) {
        let all: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let at = |field: &str, index: usize| format!("{pointer}/{field}/{index}");
        let sent = spec.columns.as_deref().unwrap_or(&all);
        for (index, column) in sent.iter().enumerate() {
            let place = match &spec.columns {
                Some(_) => at("columns", index),
                None => format!("{pointer}/topic"),
            };
            self.check_published_column(&place, column, schema);
            self.check_once(&place, column, &sent[..index]);
        }
        for (index, column) in spec.key.iter().enumerate() {
            let several = at("key", index);
            let place =
                if self.value.pointer(&several).is_some() { several } else { format!("{pointer}/key") };
            self.check_published_column(&place, column, schema);
            self.check_once(&place, column, &spec.key[..index]);
        }
    }

    fn check_published_column(&mut self, pointer: &str, column: &str, schema: &Schema) {
        let Some(index) = schema.fields().iter().position(|field| field.name() == column) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let suggestion = did_you_mean(column, names);
            self.report(pointer, Place::Value, format!("the query has no column `{column}`"), suggestion);
            return;
        };
        if let Some(problem) = json_problem(&schema.fields()[index]) {
            let message = format!("the column `{column}` cannot be written as JSON: {problem}");
            let suggestion = "cast it in the query, or name the others in `columns`";
            self.report(pointer, Place::Value, message, Some(suggestion.to_owned()));
        }
    }

    fn check_once(&mut self, pointer: &str, column: &str, earlier: &[String]) {
        if earlier.iter().any(|other| other == column) {
            self.report(pointer, Place::Value, format!("`{column}` is named twice"), None);
        }
    }

    /// Progress of two tables under one name would be that of neither.
    pub(super) fn check_group_of_publish(&mut self, dataset: &DatasetSpec, earlier: &[&DatasetSpec]) {
        fn letters_of(dataset: &DatasetSpec) -> Option<&str> {
            dataset.dead_letter.as_ref().map(|spec| spec.group.as_str())
        }
        fn rows_of(dataset: &DatasetSpec) -> Option<&str> {
            dataset.publish.as_ref().map(|spec| spec.group.as_str())
        }
        let pointer = pointer_to("/datasets", &dataset.name);
        let mut refuse = |field: &str, group: &str, whose: &str, other: &str| {
            let message = format!("`{group}` is the group of the {whose} of `{other}` already");
            let suggestion = "give each its own `group`; they may share the topic";
            self.report(format!("{pointer}/{field}"), Place::Key, message, Some(suggestion.to_owned()));
        };
        if let Some(group) = rows_of(dataset) {
            let mut all = earlier.iter().copied().chain([dataset]);
            if let Some(other) = all.find(|other| letters_of(other) == Some(group)) {
                refuse("publish", group, "dead letters", &other.name);
            } else if let Some(other) = earlier.iter().find(|other| rows_of(other) == Some(group)) {
                refuse("publish", group, "published rows", &other.name);
            }
        }
        if let Some(group) = letters_of(dataset)
            && let Some(other) = earlier.iter().find(|other| rows_of(other) == Some(group))
        {
            refuse("dead_letter", group, "published rows", &other.name);
        }
    }
}
