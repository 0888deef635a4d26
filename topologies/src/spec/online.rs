//! The `online` of a spec: views whose columns exist and are of the right types.
//!
//! The columns are held against those of the dataset's query. A table may have more, that an earlier query had; whoever starts a
//! view holds it against the table once more.

use std::time::Duration;

use arrow::datatypes::{DataType, Schema};
use serde_json::Value as Json;

use super::check::Place;
use super::resolve::Resolver;
use super::suggest::did_you_mean;
use super::{DatasetSpec, OnlineSpec, SourceSpec, raw, sql};
use crate::online::{not_a_feature, not_a_key, not_a_time};

/// The names that columns have by default, as in a point-in-time join.
const TIME: &str = "event_time";
const KNOWN: &str = "known_time";
const OFFSETS: [&str; 2] = ["offset", "_offset"];

/// A rule for the type of a column: what is wrong with it, if something is.
type Rule = fn(&DataType) -> Option<&'static str>;

impl Resolver<'_> {
    /// The views, if all of them are right.
    pub(super) fn online(
        &mut self,
        sources: &[(String, Option<SourceSpec>)],
        datasets: &[Option<DatasetSpec>],
    ) -> Option<Vec<OnlineSpec>> {
        let count = self.value.pointer("/online").and_then(Json::as_array).map_or(0, Vec::len);
        let found_before = self.found();
        let mut views: Vec<OnlineSpec> = Vec::with_capacity(count);
        for index in 0..count {
            let pointer = format!("/online/{index}");
            let Some(written) = self.typed::<raw::Online>(&pointer) else { continue };
            let names = self.names("/datasets");
            if !names.contains(&written.dataset) {
                let message = format!("there is no dataset `{}`", written.dataset);
                let meant = did_you_mean(&written.dataset, names.iter().map(String::as_str));
                self.report(format!("{pointer}/dataset"), Place::Value, message, meant);
                continue;
            }
            if views.iter().any(|view| view.dataset == written.dataset) {
                let message = format!("there is an online view of `{}` already", written.dataset);
                let suggestion = "keep one of them; look-ups name the dataset";
                self.report(format!("{pointer}/dataset"), Place::Value, message, Some(suggestion.into()));
                continue;
            }
            let dataset = datasets.iter().flatten().find(|dataset| dataset.name == written.dataset);
            let columns = dataset.and_then(|dataset| {
                let (_, source) = sources.get(dataset.source)?;
                sql::columns(source.as_ref()?, &dataset.sql)
            });
            let view = view_of(written, columns.as_deref());
            self.check_view(&pointer, &view, columns.as_deref());
            views.push(view);
        }
        (self.found() == found_before && views.len() == count).then_some(views)
    }

    /// Reports what is wrong with a view; its columns only if those of the dataset are known.
    fn check_view(&mut self, pointer: &str, view: &OnlineSpec, columns: Option<&Schema>) {
        let at = |field: &str| format!("{pointer}/{field}");
        if view.keys.is_empty() {
            let suggestion = "name the columns that say whose row it is".to_owned();
            self.report(at("keys"), Place::Key, "`keys` is empty", Some(suggestion));
        }
        if view.features.as_ref().is_some_and(Vec::is_empty) {
            let suggestion = "name at least one, or leave `features` out for all".to_owned();
            self.report(at("features"), Place::Key, "`features` is empty", Some(suggestion));
        }
        if view.ttl == Some(Duration::ZERO) {
            self.report(at("ttl"), Place::Value, "`ttl` is 0: every row would be too old", None);
        }
        let list = |field: &'static str, names: &[String], rule: Rule| -> Vec<(String, String, Rule)> {
            let each = names.iter().enumerate();
            each.map(|(index, name)| (format!("{pointer}/{field}/{index}"), name.clone(), rule)).collect()
        };
        let mut named = list("keys", &view.keys, not_a_key);
        named.push((at("time"), view.time.clone(), not_a_time));
        named.extend(view.known.iter().map(|known| (at("known"), known.clone(), not_a_time as Rule)));
        named.extend(list("sequence", &view.sequence, not_a_key));
        named.extend(list("features", view.features.as_deref().unwrap_or_default(), not_a_feature));
        for (index, (place, name, rule)) in named.iter().enumerate() {
            if named[..index].iter().any(|(_, other, _)| other == name) {
                self.report_column(place, pointer, format!("`{name}` is here twice"), None);
                continue;
            }
            let Some(columns) = columns else { continue };
            match columns.field_with_name(name) {
                Err(_) => {
                    let known = columns.fields().iter().map(|field| field.name().as_str());
                    let message = format!("`{}` has no column `{name}`", view.dataset);
                    self.report_column(place, pointer, message, did_you_mean(name, known));
                }
                Ok(field) => {
                    if let Some(problem) = rule(field.data_type()) {
                        let (message, suggestion) = super::resolve::split_help(problem);
                        self.report_column(place, pointer, format!("`{name}` {message}"), suggestion);
                    }
                }
            }
        }
        if let (Some(columns), None) = (columns, &view.features) {
            self.check_others(pointer, columns, &named);
        }
    }

    /// Where no features are named, they are all other columns: there is one, and none is a map.
    fn check_others(&mut self, pointer: &str, columns: &Schema, named: &[(String, String, Rule)]) {
        let is_other = |name: &String| named.iter().all(|(_, other, _)| other != name);
        let others: Vec<_> = columns.fields().iter().filter(|field| is_other(field.name())).collect();
        if others.is_empty() {
            let message = "no column is left for features".to_owned();
            self.report(pointer, Place::Key, message, None);
        }
        for field in others {
            if let Some(problem) = not_a_feature(field.data_type()) {
                let (message, suggestion) = super::resolve::split_help(problem);
                let message = format!("`{}` {message}", field.name());
                self.report(pointer, Place::Key, message, suggestion);
            }
        }
    }

    /// Reports a column where it is written, or the view where it is one by default.
    fn report_column(&mut self, place: &str, pointer: &str, message: String, suggestion: Option<String>) {
        let is_written = self.value.pointer(place).is_some_and(|value| !value.is_null());
        match is_written {
            true => self.report(place, Place::Value, message, suggestion),
            false => {
                let field = place.strip_prefix(pointer).unwrap_or(place).trim_start_matches('/');
                let field = field.split('/').next().unwrap_or_default();
                let suggestion = Some(format!("say which with `{field}`"));
                self.report(pointer, Place::Key, message, suggestion);
            }
        }
    }
}

/// A view as it is meant, with what is not written.
fn view_of(written: raw::Online, columns: Option<&Schema>) -> OnlineSpec {
    let has = |name: &&str| columns.is_some_and(|columns| columns.column_with_name(name).is_some());
    let raw::Online { dataset, keys, time, known, sequence, ttl, features } = written;
    let is_taken = |name: &&str| {
        keys.iter().chain(features.iter().flatten()).any(|other| other == name)
            || time.as_deref() == Some(*name)
    };
    let known = known.or_else(|| Some(KNOWN).filter(has).filter(|name| !is_taken(name)).map(str::to_owned));
    let sequence = sequence.unwrap_or_else(|| {
        let offset = OFFSETS.into_iter().find(|name| has(name) && !is_taken(name));
        offset.map(str::to_owned).into_iter().collect()
    });
    let time = time.unwrap_or_else(|| TIME.to_owned());
    OnlineSpec { dataset, keys, time, known, sequence, ttl: ttl.map(|ttl| ttl.0), features }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::schema::EXAMPLE;
    use crate::spec::{CheckOptions, Colour, Topology, check_text};

    /// The example with times and a map in its dataset, and these views.
    fn checked(views: &str) -> Result<Topology, String> {
        let text = EXAMPLE
            .replace(
                "      carrier: string\n",
                "      carrier: string\n      at: timestamp\n      tags: map<string, string>\n",
            )
            .replace("SELECT year,", "SELECT at AS event_time, tags, year,");
        let text = format!("{text}online:\n{views}");
        let checked = check_text(&text, "topology.yaml", Path::new("/"), CheckOptions::default());
        checked.map_err(|errors| errors.render(Colour::None))
    }

    const FEATURES: &str = "features: [late, arr_delay]";

    #[test]
    fn a_view_has_the_columns_that_a_point_in_time_join_takes() {
        let topology = checked(&format!(
            "  - dataset: flight_features\n    keys: [carrier, month]\n    ttl: 36h\n    {FEATURES}\n"
        ));
        let online = topology.unwrap().online;
        let expected = OnlineSpec {
            dataset: "flight_features".into(),
            keys: vec!["carrier".into(), "month".into()],
            time: "event_time".into(),
            known: None,
            sequence: Vec::new(),
            ttl: Some(Duration::from_secs(36 * 3600)),
            features: Some(vec!["late".into(), "arr_delay".into()]),
        };
        assert_eq!(online, [expected]);
        let topology = checked(&format!(
            "  - dataset: flight_features\n    keys: [carrier]\n    known: event_time\n    time: event_time\n    {FEATURES}\n"
        ));
        assert!(topology.unwrap_err().contains("`event_time` is here twice"));
    }

    #[test]
    fn what_is_wrong_with_a_view_is_said_where_it_stands() {
        let view = |rest: &str| format!("  - dataset: flight_features\n    {rest}\n");
        for (views, message) in [
            (
                "  - { dataset: flight_feature, keys: [carrier] }\n".to_owned(),
                "there is no dataset `flight_feature`",
            ),
            (view(&format!("keys: []\n    {FEATURES}")), "`keys` is empty"),
            (view(&format!("keys: [nowhere]\n    {FEATURES}")), "`flight_features` has no column `nowhere`"),
            (view(&format!("keys: [tags]\n    {FEATURES}")), "`tags` cannot be compared for equality"),
            (view(&format!("keys: [carrier]\n    time: month\n    {FEATURES}")), "`month` is no time"),
            (view("keys: [carrier]\n    features: [carrier]"), "`carrier` is here twice"),
            (view("keys: [carrier]\n    features: [tags]"), "`tags` is a map"),
            (view("keys: [carrier]"), "`tags` is a map"),
            (view("keys: [carrier]\n    features: []"), "`features` is empty"),
            (view(&format!("keys: [carrier]\n    ttl: 0s\n    {FEATURES}")), "`ttl` is 0"),
            (
                view(&format!("keys: [carrier]\n    {FEATURES}")).repeat(2),
                "there is an online view of `flight_features` already",
            ),
            (view(&format!("key: [carrier]\n    {FEATURES}")), "key"),
        ] {
            let found = checked(&views).unwrap_err();
            assert!(found.contains(message), "{views}{found}");
        }
    }

    #[test]
    fn without_a_time_by_its_usual_name_it_has_to_be_said() {
        let text = format!("{EXAMPLE}online:\n  - {{ dataset: flight_features, keys: [carrier] }}\n");
        let errors = check_text(&text, "topology.yaml", Path::new("/"), CheckOptions::default()).unwrap_err();
        let found = errors.render(Colour::None);
        assert!(found.contains("`flight_features` has no column `event_time`"), "{found}");
        assert!(found.contains("say which with `time`"), "{found}");
    }
}
