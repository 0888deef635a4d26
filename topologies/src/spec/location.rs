//! Where a cloud is: the URL of a spec → a checked, absolute one.
//!
//! Buckets are `s3://bucket/prefix`, `az://container/prefix` and `gs://bucket/prefix`. Folders are `file:///abs/olute`,
//! or relative to the folder of the spec: `./aws`, `../aws`, `file:./aws`. `memory://name` lasts as long as the
//! process. A URL holds no credentials and no query; those are options.

use std::path::{Component, Path, PathBuf};

use url::Url;

use super::suggest::did_you_mean;

/// The schemes of clouds.
const SCHEMES: [&str; 5] = ["s3", "az", "gs", "file", "memory"];

/// What is wrong with a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocationProblem {
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
    /// Whether the URL itself must not be shown.
    pub(super) is_secret: bool,
}

fn problem<T>(message: impl Into<String>, suggestion: impl Into<String>) -> Result<T, LocationProblem> {
    Err(LocationProblem { message: message.into(), suggestion: Some(suggestion.into()), is_secret: false })
}

/// The URL that `text` stands for; relative folders start at `folder`, which is absolute. No trailing slash.
pub(super) fn parse_location(text: &str, folder: &Path) -> Result<Url, LocationProblem> {
    if has_credentials(text) {
        return Err(LocationProblem {
            message: "the URL holds credentials".into(),
            suggestion: Some(
                "give them as `options`, by reference: \"${env:NAME}\" or \"${file:path}\"".into(),
            ),
            is_secret: true,
        });
    }
    if text.contains("${") {
        return problem(
            "a URL cannot hold references",
            "it names the location to everybody; only values of `options` may refer to secrets",
        );
    }
    if text.is_empty() {
        return problem("the URL is empty", "`s3://bucket/prefix`, for example");
    }
    if text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || text == "."
        || text == ".."
    {
        return folder_url(&folder.join(text));
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return problem(
            format!("`{text}` has no scheme"),
            format!("`s3://{text}` for a bucket, `./{text}` for a folder beside the spec"),
        );
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => file_url(rest, folder),
        "s3" | "az" | "gs" | "memory" => store_url(text),
        other => problem(format!("`{other}` is not the scheme of a cloud"), scheme_help(other)),
    }
}

fn scheme_help(scheme: &str) -> String {
    let meant = match scheme {
        "s3a" | "s3n" | "aws" => Some("s3"),
        "azure" | "abfs" | "abfss" | "adl" | "wasb" | "wasbs" => Some("az"),
        "gcs" | "gcp" => Some("gs"),
        "mem" | "inmemory" => Some("memory"),
        _ => None,
    };
    match (meant, scheme) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, "http" | "https") => {
            "write `s3://bucket/prefix` and give the address as the option `endpoint`".into()
        }
        (None, _) => did_you_mean(scheme, SCHEMES).unwrap_or_default(),
    }
}

/// Whether a text holds `user:password@` or a signature.
pub(super) fn has_credentials(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let query = rest.split_once('?').map(|(_, query)| query.to_ascii_lowercase()).unwrap_or_default();
    let signed = query.split('&').any(|pair| {
        ["sig=", "x-amz-signature=", "x-amz-security-token=", "x-goog-signature="]
            .iter()
            .any(|name| pair.starts_with(name))
    });
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || signed
}

fn folder_url(path: &Path) -> Result<Url, LocationProblem> {
    match Url::from_file_path(without_dots(path)) {
        Ok(url) => without_trailing_slash(url),
        Err(()) => problem(format!("`{}` is not an absolute folder", path.display()), "write `./folder`"),
    }
}

/// `path` with `.` and `..` worked out on its text, so that the URL is the same however it is read later.
fn without_dots(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

fn file_url(rest: &str, folder: &Path) -> Result<Url, LocationProblem> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(path) => {
            let relative = path.strip_prefix("./").unwrap_or(path);
            return problem(
                format!("`file:{rest}` names a host, not a folder"),
                format!(
                    "`file:./{relative}` for a folder beside the spec, `file:///{relative}` for an absolute one"
                ),
            );
        }
        None => rest,
    };
    if path.is_empty() {
        return problem("the URL names no folder", "`file:./folder`, for example");
    }
    let base = match Url::from_directory_path(folder) {
        Ok(base) => base,
        Err(()) => {
            return problem(format!("`{}` is not an absolute folder", folder.display()), "move the spec");
        }
    };
    // A relative reference may not look like it had a scheme (`a:b`); `./` keeps it one.
    let reference = if path.starts_with('/') { path.to_owned() } else { format!("./{path}") };
    match base.join(&reference) {
        Ok(url) if url.query().is_some() || url.fragment().is_some() => refuse_query(),
        Ok(url) => without_trailing_slash(url),
        Err(error) => problem(format!("`file:{rest}` is not a URL: {error}"), "`file:./folder`, for example"),
    }
}

fn store_url(text: &str) -> Result<Url, LocationProblem> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            return problem(format!("`{text}` is not a URL: {error}"), "`s3://bucket/prefix`, for example");
        }
    };
    let scheme = url.scheme();
    let bucket = url.host_str().unwrap_or_default();
    let what = match scheme {
        "az" => "container",
        "memory" => "name",
        _ => "bucket",
    };
    if bucket.is_empty() {
        return problem(
            format!("`{text}` has no {what}"),
            format!("`{scheme}://{what}/prefix`, for example"),
        );
    }
    if !url.username().is_empty() || url.port().is_some() {
        return problem(
            format!("`{text}` names a user or a port"),
            "give the address of the store as the option `endpoint` and its account as an option",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse_query();
    }
    if url.path().contains("//") {
        return problem(format!("`{text}` has an empty folder in its prefix"), "remove the doubled `/`");
    }
    without_trailing_slash(url)
}

fn refuse_query<T>() -> Result<T, LocationProblem> {
    problem(
        "the URL has a query or a fragment",
        "give settings of the store as `options`; write `#` as `%23`, `?` as `%3F`",
    )
}

fn without_trailing_slash(mut url: Url) -> Result<Url, LocationProblem> {
    let path = url.path().trim_end_matches('/').to_owned();
    if path.is_empty() && url.scheme() == "file" {
        return problem(
            "the root folder cannot be a cloud",
            "name a folder: `file:///data/isobar`, for example",
        );
    }
    url.set_path(&path);
    Ok(url)
}

/// How two locations lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    /// They share nothing.
    None,
    /// They are the same.
    Same,
    /// One lies inside the other.
    Nested,
}

/// How `a` and `b` lie to each other, by their URLs alone.
pub(super) fn overlap(a: &Url, b: &Url) -> Overlap {
    if a.scheme() != b.scheme() || a.host_str() != b.host_str() {
        return Overlap::None;
    }
    let folders = |url: &Url| -> Vec<String> {
        url.path().split('/').filter(|folder| !folder.is_empty()).map(str::to_owned).collect()
    };
    let (a, b) = (folders(a), folders(b));
    if a == b {
        Overlap::Same
    } else if a.starts_with(&b) || b.starts_with(&a) {
        Overlap::Nested
    } else {
        Overlap::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, LocationProblem> {
        parse_location(text, Path::new("/specs/flights")).map(|url| url.to_string())
    }

    #[test]
    fn locations_become_absolute() {
        for (text, url) in [
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("s3://bucket", "s3://bucket"),
            ("az://container/prefix", "az://container/prefix"),
            ("gs://my_bucket.example/p", "gs://my_bucket.example/p"),
            ("memory://x", "memory://x"),
            ("file:///data/aws/", "file:///data/aws"),
            ("/data/aws", "file:///data/aws"),
            ("./aws", "file:///specs/flights/aws"),
            ("../aws/./b", "file:///specs/aws/b"),
            ("file:./aws", "file:///specs/flights/aws"),
            ("file:aws", "file:///specs/flights/aws"),
            ("file:../aws", "file:///specs/aws"),
            ("./a b#c", "file:///specs/flights/a%20b%23c"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn malformed_locations_say_what_was_meant() {
        for (text, message, suggestion) in [
            ("aws", "`aws` has no scheme", "`s3://aws` for a bucket, `./aws` for a folder beside the spec"),
            ("s3a://b/p", "`s3a` is not the scheme of a cloud", "did you mean `s3`?"),
            ("gcs://b", "`gcs` is not the scheme of a cloud", "did you mean `gs`?"),
            ("s3:///p", "`s3:///p` has no bucket", "`s3://bucket/prefix`, for example"),
            ("az://", "`az://` has no container", "`az://container/prefix`, for example"),
            (
                "file://./aws",
                "`file://./aws` names a host, not a folder",
                "`file:./aws` for a folder beside the spec, `file:///aws` for an absolute one",
            ),
            ("s3://b/a//c", "`s3://b/a//c` has an empty folder in its prefix", "remove the doubled `/`"),
            ("memory:///", "`memory:///` has no name", "`memory://name/prefix`, for example"),
            (
                "file:///",
                "the root folder cannot be a cloud",
                "name a folder: `file:///data/isobar`, for example",
            ),
        ] {
            let problem = parse(text).unwrap_err();
            assert_eq!(
                (problem.message.as_str(), problem.suggestion.as_deref()),
                (message, Some(suggestion))
            );
        }
        for text in [
            "",
            "s3://b:9000/p",
            "s3://user@b/p",
            "s3://b/p?x=1",
            "file:./a?b",
            "s3:b",
            "s3://b/${env:P}",
            "memory:x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_found() {
        for text in ["s3://key:secret@bucket/p", "az://c/p?sv=1&sig=abc", "http://proxy:pw@host:1"] {
            assert!(has_credentials(text), "{text}");
        }
        assert!(parse("s3://key:secret@bucket/p").unwrap_err().is_secret);
        for text in ["s3://bucket/a@b:c", "http://localhost:9000", "eu-west-1"] {
            assert!(!has_credentials(text), "{text}");
        }
    }

    #[test]
    fn overlaps_are_seen() {
        let overlap_of = |a: &str, b: &str| overlap(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert_eq!(overlap_of("s3://b/p", "s3://b/p"), Overlap::Same);
        assert_eq!(overlap_of("s3://b/p", "s3://b/p/q"), Overlap::Nested);
        assert_eq!(overlap_of("s3://b/p", "s3://b/pq"), Overlap::None);
        assert_eq!(overlap_of("s3://b/p", "gs://b/p"), Overlap::None);
        assert_eq!(overlap_of("s3://b", "s3://b/q"), Overlap::Nested);
    }
}
