//! From what is asked for to SQL: columns looked up, defaults filled in, names quoted.
//!
//! ```sql
//! SELECT "carrier", "departed_at", "late", "#0__wind" AS "w__wind", …, "#row"
//! FROM point_in_time((SELECT …, "#row" FROM … ORDER BY "#row"), 'departed_at', view((SELECT … FROM "weather"), …), …)
//! ```
//!
//! **The order of rows.** Rows of a file have their numbers. Rows of a dataset or a query are numbered by time, keys, and then all other
//! columns of the spine, each ascending: rows that agree in all of that are the same, and what is found for them is too. So the order is a
//! property of the rows, and the same in every cloud, before and after files were combined.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use isobar_transforms::condition::{Condition, in_brackets};

use super::columns::{is_time, places, stored_type};
use super::file::ROW_NUMBER;
use super::opened_file;
use crate::error::Error;
use crate::query::{Catalog, quoted, shown};
use crate::spec::did_you_mean;
use crate::spec::training::{At, KnownTime, SpineSource, TrainingSet, View};

/// The table that a spine in a file is. No dataset can have this name.
const SPINE_FILE: &str = "training spine";

/// The column of a view that says since when a row is known, if nothing else is said.
const KNOWN_TIME: &str = "known_time";
/// The columns of a view that decide between rows with the same times, if nothing else is said.
const OFFSETS: [&str; 2] = ["offset", "_offset"];

/// A text in SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

fn literals(names: &[String]) -> String {
    format!("({})", names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "))
}

/// How a training set is made.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its rows, and the number of each in the last column.
    pub(super) sql: String,
    /// What each column of the training set is: `time`, `key`, `label` or `feature`.
    pub(super) roles: Vec<&'static str>,
}

/// A view with its defaults.
#[derive(Debug)]
pub(super) struct PlannedView<'a> {
    pub(super) view: &'a View,
    /// The table, at its version.
    pub(super) relation: String,
    /// Since when a row is known.
    pub(super) known_time: Option<String>,
    /// What decides between rows with the same times.
    offset: Option<String>,
}

/// Works out how `set` is made from the tables of `catalog`.
///
/// # Errors
/// [`Error::Configuration`] if a column is not there or of the wrong type; those of [`Catalog::query`].
pub(super) async fn plan(set: &TrainingSet, catalog: &Catalog) -> Result<Plan, Error> {
    let (spine, spine_columns) = spine(set, catalog).await?;
    let request = &set.request;
    let (time, keys) = (&request.spine.time, &request.spine.keys);
    let mut roles: Vec<&'static str> = Vec::new();
    let mut selected = Vec::new();
    for name in &spine_columns {
        selected.push(quoted(name));
        roles.push(if name == time {
            "time"
        } else if keys.contains(name) {
            "key"
        } else {
            "label"
        });
    }
    let mut calls = Vec::new();
    for (number, planned) in views(set, catalog).await?.into_iter().enumerate() {
        for feature in &planned.view.features {
            if spine_columns.contains(&feature.name) {
                return Err(Error::Configuration(format!(
                    "view {}: the spine has a column {} already: give the view another `prefix`, or the feature another name",
                    planned.view.name, feature.name
                )));
            }
            let found = quoted(&format!("#{number}__{}", feature.column));
            selected.push(format!("{found} AS {}", quoted(&feature.name)));
            roles.push("feature");
        }
        calls.push(call(number, &planned));
    }
    let sql = format!(
        "SELECT {}, {} FROM point_in_time(({spine}), {}, {})",
        selected.join(", "),
        quoted(ROW_NUMBER),
        literal(time),
        calls.join(", ")
    );
    Ok(Plan { sql, roles })
}

/// The call that stands for a view in `point_in_time(…)`.
fn call(number: usize, planned: &PlannedView<'_>) -> String {
    let view = planned.view;
    let mut columns: Vec<&str> = Vec::new();
    let features = view.features.iter().map(|feature| &feature.column);
    let others = planned.known_time.iter().chain(&planned.offset);
    for column in view.keys.iter().chain([&view.time]).chain(others).chain(features) {
        if !columns.contains(&column.as_str()) {
            columns.push(column);
        }
    }
    let optional = |column: &Option<String>| column.as_deref().map_or_else(|| "NULL".to_owned(), literal);
    let ttl = view.ttl_ms.map(|ttl_ms| format!(", ttl => {}", interval(ttl_ms))).unwrap_or_default();
    format!(
        "view((SELECT {} FROM {}{}), prefix => '#{number}', spine_keys => {}, keys => {}, time => {}, known => {}, offset => {}{ttl})",
        quoted_list(columns),
        planned.relation,
        filter(view.condition.as_deref()),
        literals(&view.spine_keys),
        literals(&view.keys),
        literal(&view.time),
        optional(&planned.known_time),
        optional(&planned.offset),
    )
}

/// A length of time in SQL.
pub(super) fn interval(ms: u64) -> String {
    format!("INTERVAL '{ms} milliseconds'")
}

/// A condition, that was checked, behind the table that it is about.
pub(super) fn filter(condition: Option<&str>) -> String {
    condition.map(|condition| format!(" WHERE {}", in_brackets(condition))).unwrap_or_default()
}

/// The query of the spine, in order and with numbers, and the columns of it that the training set has.
async fn spine(set: &TrainingSet, catalog: &Catalog) -> Result<(String, Vec<String>), Error> {
    let spine = &set.request.spine;
    let (relation, is_numbered) = match &spine.source {
        SpineSource::Dataset(dataset) => (quoted(dataset), false),
        // A comment at the end of the query ends there.
        SpineSource::Query(query) => {
            (format!("(\n{}\n) AS spine", query.trim().trim_end_matches(';')), false)
        }
        SpineSource::File(_) => (quoted(SPINE_FILE), true),
    };
    let file = match &set.spine_file {
        Some(path) => Some(opened_file(path).await?),
        None => None,
    };
    let schema = match &file {
        Some(file) => {
            if let (None, Some((column, data_type))) = (&spine.labels, file.unreadable().first()) {
                return Err(Error::Configuration(format!(
                    "spine: the column {column} is of type {data_type}, which a training set cannot hold: name those that are \
                     wanted under `labels`"
                )));
            }
            file.columns().clone()
        }
        None => catalog.columns(&format!("SELECT * FROM {relation}")).await?,
    };
    check_condition("spine", &schema, spine.condition.as_deref())?;
    let columns = spine_columns(set, &schema)?;
    if let Some(file) = &file {
        let read = match spine.condition {
            // Which columns a condition needs is for the engine to say.
            Some(_) => file.clone(),
            None => file.only(&columns.iter().map(String::as_str).collect()),
        };
        catalog.add_table(SPINE_FILE, Arc::new(read.table()?))?;
    }
    let selected = quoted_list(columns.iter().map(String::as_str));
    let condition = filter(spine.condition.as_deref());
    let number = quoted(ROW_NUMBER);
    let sql = if is_numbered {
        format!("SELECT {selected}, {number} FROM {relation}{condition} ORDER BY {number}")
    } else {
        let order = order(set, &schema, &columns)?;
        format!(
            "SELECT * FROM (SELECT {selected}, CAST(row_number() OVER (ORDER BY {order}) AS BIGINT) AS {number} \
             FROM {relation}{condition}) AS numbered ORDER BY {number}"
        )
    };
    Ok((sql, columns))
}

/// The columns of the spine that the training set has, in their order.
fn spine_columns(set: &TrainingSet, schema: &Schema) -> Result<Vec<String>, Error> {
    let spine = &set.request.spine;
    check_time("spine", schema, &spine.time)?;
    let mut named: Vec<String> = Vec::new();
    for column in spine.keys.iter().chain([&spine.time]).chain(spine.labels.iter().flatten()) {
        find("spine", schema, column)?;
        if !named.contains(column) {
            named.push(column.clone());
        }
    }
    let columns = match &spine.labels {
        Some(_) => named,
        None => schema.fields().iter().map(|field| field.name().clone()).collect(),
    };
    for view in &set.request.views {
        for column in &view.spine_keys {
            find(&format!("view {}: spine", view.name), schema, column)?;
            if !columns.contains(column) {
                return Err(Error::Configuration(format!(
                    "view {}: `labels` of the spine has to name {column} too, by which the view is asked",
                    view.name
                )));
            }
        }
    }
    for column in &columns {
        if column == ROW_NUMBER {
            return Err(Error::Configuration(format!("spine: no column can be called {ROW_NUMBER}")));
        }
        let data_type = find("spine", schema, column)?;
        if stored_type(data_type).is_none() {
            return Err(Error::Configuration(format!(
                "spine: the column {column} is of type {data_type}, which a training set cannot hold: cast it in a query"
            )));
        }
    }
    Ok(columns)
}

/// By what the rows of a spine are ordered that have no numbers.
fn order(set: &TrainingSet, schema: &Schema, columns: &[String]) -> Result<String, Error> {
    let spine = &set.request.spine;
    let mut order: Vec<&str> = vec![&spine.time];
    for column in spine.keys.iter().chain(columns) {
        if find("spine", schema, column)?.is_nested() {
            return Err(Error::Configuration(format!(
                "spine: rows have no order by the column {column}, which is a list, a struct or a map: leave it out by `labels`, or take the \
                 rows from a file"
            )));
        }
        if !order.contains(&column.as_str()) {
            order.push(column);
        }
    }
    Ok(order.into_iter().map(|column| quoted(column) + " ASC NULLS FIRST").collect::<Vec<_>>().join(", "))
}

/// The views with their defaults.
///
/// # Errors
/// As [`plan`].
pub(super) async fn views<'a>(
    set: &'a TrainingSet,
    catalog: &Catalog,
) -> Result<Vec<PlannedView<'a>>, Error> {
    let mut planned = Vec::with_capacity(set.request.views.len());
    for view in &set.request.views {
        let relation = match view.at {
            None => quoted(&view.dataset),
            Some(At::Version(version)) => format!("{} VERSION AS OF {version}", quoted(&view.dataset)),
            Some(At::TimeMs(ms)) => {
                format!("{} TIMESTAMP AS OF {}", quoted(&view.dataset), literal(&shown(ms)))
            }
        };
        let schema = catalog.columns(&format!("SELECT * FROM {relation}")).await?;
        planned.push(planned_view(view, relation, &schema)?);
    }
    Ok(planned)
}

fn planned_view<'a>(view: &'a View, relation: String, schema: &SchemaRef) -> Result<PlannedView<'a>, Error> {
    let place = format!("view {}", view.name);
    check_time(&place, schema, &view.time)?;
    check_condition(&place, schema, view.condition.as_deref())?;
    for column in view.keys.iter().chain(view.features.iter().map(|feature| &feature.column)) {
        find(&place, schema, column)?;
    }
    for feature in &view.features {
        let data_type = find(&place, schema, &feature.column)?;
        if stored_type(data_type).is_none() {
            return Err(Error::Configuration(format!(
                "{place}: the column {} is of type {data_type}, which a training set cannot hold",
                feature.column
            )));
        }
    }
    let is_there = |column: &str| schema.column_with_name(column).is_some();
    let known_time = match &view.known_time {
        KnownTime::IfThere => is_there(KNOWN_TIME).then(|| KNOWN_TIME.to_owned()),
        KnownTime::Column(column) => Some(column.clone()),
        KnownTime::Ignored => None,
    };
    if let Some(column) = &known_time {
        check_time(&place, schema, column)?;
    }
    let offset = match &view.offset {
        Some(column) => {
            let data_type = find(&place, schema, column)?;
            if !data_type.is_integer() {
                return Err(Error::Configuration(format!(
                    "{place}: the column {column} is of type {data_type}; only integers can decide between rows"
                )));
            }
            Some(column.clone())
        }
        None => OFFSETS.iter().find(|column| is_there(column)).map(|column| (*column).to_owned()),
    };
    Ok(PlannedView { view, relation, known_time, offset })
}

fn check_condition(place: &str, schema: &SchemaRef, condition: Option<&str>) -> Result<(), Error> {
    let Some(condition) = condition else { return Ok(()) };
    let table = place.rsplit(' ').next().unwrap_or(place);
    let compiled = Condition::compile(table, schema, condition);
    compiled
        .map(drop)
        .map_err(|error| Error::Configuration(format!("{place}: `where`: {}", crate::chain_of(&error))))
}

fn check_time(place: &str, schema: &Schema, column: &str) -> Result<(), Error> {
    let data_type = find(place, schema, column)?;
    if is_time(data_type) {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "{place}: the column {column} is of type {data_type}; a time is a timestamp or a date"
    )))
}

/// The type of a column that is to be there.
fn find<'s>(place: &str, schema: &'s Schema, column: &str) -> Result<&'s arrow::datatypes::DataType, Error> {
    match places(schema, [column]) {
        Ok(found) => Ok(schema.field(found[0]).data_type()),
        Err(_) => {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let help = did_you_mean(column, names).map(|help| format!("; {help}")).unwrap_or_default();
            Err(Error::Configuration(format!("{place}: there is no column {column}{help}")))
        }
    }
}
