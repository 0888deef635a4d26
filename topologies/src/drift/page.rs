//! The report as one HTML page: tables and plots in it, and nothing that is loaded or run.
//!
//! Names come from a model's manifest, so all text is escaped.

use std::fmt::Write;
use std::path::Path;

use super::check::{BinReport, DriftReport, FeatureReport, day};
use super::distances::Distance;
use super::replace_file;
use crate::error::Error;

/// Size of a plot, in pixels.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 160.0;
/// Room for words at the left and below.
const MARGIN: f64 = 36.0;
/// Colours that are told apart by everybody (Okabe and Ito): reference and window; then one for each distance.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];
/// What people call the distances, in the order of [`Distance::ALL`].
const NAMES: [&str; 3] = ["PSI", "Jensen–Shannon", "L∞"];
/// Most that is shown of a distance, in limits.
const LIMITS_SHOWN: f64 = 3.0;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.alarm{color:#b00;font-weight:600}.plots{display:flex;flex-wrap:wrap;gap:1rem}\
svg text{font:11px system-ui,sans-serif;fill:#444}h2{margin:1.5rem 0 .3rem;font-size:1.1rem}";

/// Writes the page.
///
/// # Errors
/// [`Error::LocalFile`] if it cannot be written.
pub fn write_page(report: &DriftReport, path: &Path) -> Result<(), Error> {
    replace_file(path, page(report).as_bytes(), "the report")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn page(report: &DriftReport) -> String {
    let title = format!("Drift of {} version {}", report.model, report.version);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        escaped(&title)
    );
    summary(&mut html, report);
    verdicts(&mut html, report);
    let from = report.windows.last().map_or("", |newest| day(&newest.from));
    for (feature, history) in report.histories() {
        push(&mut html, format_args!("<h2{}>{}</h2>\n", mark(feature.alarm), escaped(&feature.feature)));
        push(&mut html, format_args!("<p>{}.</p>\n", escaped(&verdict(feature))));
        html.push_str("<div class=\"plots\">");
        bars(&mut html, &feature.bins, from);
        lines(&mut html, &history);
        html.push_str("</div>\n");
    }
    html.push_str("</body></html>\n");
    html
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = html.write_fmt(text);
}

fn mark(alarm: bool) -> &'static str {
    if alarm { " class=\"alarm\"" } else { "" }
}

fn summary(html: &mut String, report: &DriftReport) {
    let DriftReport {
        reference_from, reference_to, reference_rows, tests, alarms, false_alarms, sha256, ..
    } = report;
    push(
        html,
        format_args!(
            "<p>Held against {reference_rows} rows from {} to {}. {tests} tests, <b{}>{alarms} alarms</b>; without a shift, any alarm has a \
             probability of {false_alarms} at most. Model {}.</p>\n<ul>",
            escaped(day(reference_from)),
            escaped(day(reference_to)),
            mark(*alarms > 0),
            escaped(sha256)
        ),
    );
    for read in &report.read {
        push(html, format_args!("<li>{} version {}</li>", escaped(&read.table), read.version));
    }
    html.push_str("</ul>\n");
}

fn verdicts(html: &mut String, report: &DriftReport) {
    html.push_str("<table><tr><th>Feature</th>");
    for window in &report.windows {
        push(html, format_args!("<th>{}<br>{} rows</th>", escaped(day(&window.from)), window.rows));
    }
    html.push_str("</tr>\n");
    for (feature, history) in report.histories() {
        push(html, format_args!("<tr><td>{}</td>", escaped(&feature.feature)));
        for feature in history {
            let Some(feature) = feature else {
                html.push_str("<td>not judged</td>");
                continue;
            };
            let psi = feature.distances.iter().find(|found| found.distance == Distance::Psi);
            let psi = psi.map_or("-".to_owned(), |psi| format!("PSI {:.3}", psi.value));
            push(html, format_args!("<td{}>{psi}</td>", mark(feature.alarm)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

/// What was found, in words: not everybody tells colours apart, or points at a circle.
fn verdict(feature: &FeatureReport) -> String {
    if let Some(why) = &feature.not_judged {
        return format!("Not judged: {why}");
    }
    let found = feature.distances.iter().map(|found| {
        let name = NAMES[found.distance as usize];
        format!("{name} {:.4} (limit {:.4}, p {:.1e})", found.value, found.limit, found.adjusted)
    });
    let found: Vec<String> = found.collect();
    format!("{}: {}", if feature.alarm { "Drift" } else { "No drift" }, found.join("; "))
}

fn begin(html: &mut String, title: &str) {
    push(
        html,
        format_args!(
            "<svg role=\"img\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{}</title>",
            escaped(title)
        ),
    );
}

/// Where a value between 0 and `most` is drawn.
fn height(value: f64, most: f64) -> f64 {
    HEIGHT - MARGIN - (value / most).clamp(0.0, 1.0) * (HEIGHT - MARGIN - 12.0)
}

/// The shares of the bins, side by side.
fn bars(html: &mut String, bins: &[BinReport], window: &str) {
    begin(html, &format!("Shares of the bins in the reference and from {window}"));
    let most = bins.iter().flat_map(|bin| [bin.reference, bin.window]).fold(1e-9, f64::max);
    let step = (WIDTH - MARGIN) / bins.len().max(1) as f64;
    for (at, bin) in bins.iter().enumerate() {
        for (side, share) in [bin.reference, bin.window].into_iter().enumerate() {
            let (x, y) = (MARGIN + step * (at as f64 + 0.1 + 0.4 * side as f64), height(share, most));
            push(
                html,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {:.2} %</title></rect>",
                    step * 0.4,
                    HEIGHT - MARGIN - y,
                    COLOURS[side],
                    escaped(&bin.label),
                    100.0 * share
                ),
            );
        }
    }
    push(html, format_args!("<text x=\"0\" y=\"12\">{:.0} %</text>", 100.0 * most));
    // The others are told by pointing at them.
    let below = HEIGHT - MARGIN + 11.0;
    if let [first, .., last] = bins {
        let (first, last) = (escaped(&first.label), escaped(&last.label));
        push(
            html,
            format_args!(
                "<text x=\"{MARGIN}\" y=\"{below}\">{first}</text><text x=\"{WIDTH}\" y=\"{below}\" text-anchor=\"end\">{last}</text>"
            ),
        );
    }
    legend(html, &["reference", &format!("from {window}")]);
    html.push_str("</svg>");
}

/// Each distance over the windows, in parts of its limit.
fn lines(html: &mut String, history: &[Option<&FeatureReport>]) {
    begin(html, "Distances over the windows, in parts of their limits");
    let step = (WIDTH - MARGIN) / history.len().max(1) as f64;
    let limit = height(1.0, LIMITS_SHOWN);
    push(
        html,
        format_args!(
            "<line x1=\"{MARGIN}\" x2=\"{WIDTH}\" y1=\"{limit:.1}\" y2=\"{limit:.1}\" stroke=\"#b00\" stroke-dasharray=\"4 3\"/>\
             <text x=\"0\" y=\"{:.1}\">limit</text>",
            limit + 4.0
        ),
    );
    for (colour, distance) in COLOURS.iter().zip(Distance::ALL) {
        let mut points = String::new();
        for (at, feature) in history.iter().enumerate() {
            let found =
                feature.and_then(|feature| feature.distances.iter().find(|found| found.distance == distance));
            let Some(found) = found else { continue };
            let x = MARGIN + step * (at as f64 + 0.5);
            let y = height(found.value / found.limit.max(1e-12), LIMITS_SHOWN);
            push(&mut points, format_args!("{x:.1},{y:.1} "));
            push(
                html,
                format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{} {:.4}, limit {:.4}, p {:.2e}</title></circle>",
                    NAMES[distance as usize], found.value, found.limit, found.adjusted
                ),
            );
        }
        push(html, format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>"));
    }
    legend(html, &NAMES);
    html.push_str("</svg>");
}

fn legend(html: &mut String, names: &[&str]) {
    for (at, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
        let x = MARGIN + 130.0 * at as f64;
        let y = HEIGHT - 12.0;
        push(
            html,
            format_args!(
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                y - 9.0,
                x + 14.0,
                escaped(name)
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{feature, report, week};
    use super::*;

    #[test]
    fn a_page_shows_what_was_found_and_loads_and_runs_nothing() {
        let name = "x<script>&";
        let report = report(vec![week(vec![feature(name, 0.1)]), week(vec![feature(name, 0.5)])]);
        let html = page(&report);
        assert!(
            html.contains("x&lt;script&gt;&amp;") && html.contains("&quot;1&quot; to below 2: 50.00 %"),
            "{html}"
        );
        assert!(
            html.contains("<td class=\"alarm\">PSI 0.500</td>") && html.contains("<td>PSI 0.100</td>"),
            "{html}"
        );
        assert!(
            html.contains("\">&quot;1&quot; to below 2</text>") && html.contains("\">2 &amp; above</text>"),
            "{html}"
        );
        assert!(html.contains("<p>Drift: PSI 0.5000 (limit 0.2500, p 2.0e-3).</p>"), "{html}");
        for none in ["<script", "http", "url(", "src=", "href=", "NaN", "inf"] {
            assert!(!html.contains(none), "{none} is in {html}");
        }
        assert_eq!(html.matches("<svg").count(), 2);
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    }

    #[test]
    fn features_are_in_the_order_of_the_model() {
        let html = page(&report(vec![week(vec![feature("second", 0.1), feature("first", 0.1)])]));
        let at = |text: &str| html.find(text).unwrap();
        assert!(at("<td>second</td>") < at("<td>first</td>") && at("<h2>second</h2>") < at("<h2>first</h2>"));
    }
}
