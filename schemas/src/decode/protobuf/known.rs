//! `.proto` files that schemas import without bringing them along.
//!
//! Google's `google/protobuf/*.proto` are in `prost-reflect`. Beside them clients of Confluent's registry take `google/type/…`
//! and `confluent/…` for built in and leave them out of the references, and schemas of services import `google/api/…` for
//! their options. Their declarations are in `known/`, whose README says where they come from.

use std::collections::BTreeSet;

use prost_reflect::prost_types::FileDescriptorProto;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// Names and texts.
const FILES: [(&str, &str); 25] = [
    ("confluent/meta.proto", include_str!("known/confluent/meta.proto")),
    ("confluent/type/decimal.proto", include_str!("known/confluent/type/decimal.proto")),
    ("confluent/type/variant.proto", include_str!("known/confluent/type/variant.proto")),
    ("confluent/types/decimal.proto", include_str!("known/confluent/types/decimal.proto")),
    ("google/api/annotations.proto", include_str!("known/google/api/annotations.proto")),
    ("google/api/field_behavior.proto", include_str!("known/google/api/field_behavior.proto")),
    ("google/api/http.proto", include_str!("known/google/api/http.proto")),
    ("google/api/resource.proto", include_str!("known/google/api/resource.proto")),
    ("google/type/calendar_period.proto", include_str!("known/google/type/calendar_period.proto")),
    ("google/type/color.proto", include_str!("known/google/type/color.proto")),
    ("google/type/date.proto", include_str!("known/google/type/date.proto")),
    ("google/type/datetime.proto", include_str!("known/google/type/datetime.proto")),
    ("google/type/dayofweek.proto", include_str!("known/google/type/dayofweek.proto")),
    ("google/type/decimal.proto", include_str!("known/google/type/decimal.proto")),
    ("google/type/expr.proto", include_str!("known/google/type/expr.proto")),
    ("google/type/fraction.proto", include_str!("known/google/type/fraction.proto")),
    ("google/type/interval.proto", include_str!("known/google/type/interval.proto")),
    ("google/type/latlng.proto", include_str!("known/google/type/latlng.proto")),
    ("google/type/localized_text.proto", include_str!("known/google/type/localized_text.proto")),
    ("google/type/money.proto", include_str!("known/google/type/money.proto")),
    ("google/type/month.proto", include_str!("known/google/type/month.proto")),
    ("google/type/phone_number.proto", include_str!("known/google/type/phone_number.proto")),
    ("google/type/postal_address.proto", include_str!("known/google/type/postal_address.proto")),
    ("google/type/quaternion.proto", include_str!("known/google/type/quaternion.proto")),
    ("google/type/timeofday.proto", include_str!("known/google/type/timeofday.proto")),
];

/// The text of the file that is imported as `name`.
fn text_of(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Whether a file of this name declares nothing of a schema's own.
pub(super) fn is_known(name: &str) -> bool {
    name.starts_with("google/protobuf/") || text_of(name).is_some()
}

/// Finds the files that are here.
struct KnownFiles;

impl FileResolver for KnownFiles {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match text_of(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// Finds the files of `own`, and those that everybody knows.
pub(super) fn resolver(own: impl FileResolver + 'static) -> ChainFileResolver {
    let mut resolver = ChainFileResolver::new();
    resolver.add(own);
    resolver.add(KnownFiles);
    resolver.add(GoogleFileResolver::new());
    resolver
}

/// The files here that `files` import and are not among them, each after those that it imports itself.
///
/// # Errors
/// Never, as long as the files here are sound.
pub(super) fn missing_from(files: &[FileDescriptorProto]) -> Result<Vec<FileDescriptorProto>, protox::Error> {
    let there: BTreeSet<&str> = files.iter().map(FileDescriptorProto::name).collect();
    let imported: BTreeSet<&str> =
        files.iter().flat_map(|file| &file.dependency).map(String::as_str).collect();
    let missing = imported.difference(&there).filter(|name| text_of(name).is_some());
    let mut compiler = Compiler::with_file_resolver(resolver(KnownFiles));
    compiler.include_imports(true);
    for name in missing {
        compiler.open_file(name)?;
    }
    let found = compiler.file_descriptor_set().file;
    Ok(found.into_iter().filter(|file| !there.contains(file.name())).collect())
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn every_file_compiles_by_itself_and_is_listed_once() {
        for (name, _) in FILES {
            let mut compiler = Compiler::with_file_resolver(resolver(KnownFiles));
            compiler.open_file(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(is_known(name));
        }
        assert!(FILES.is_sorted_by(|(one, _), (next, _)| one < next));
        assert!(is_known("google/protobuf/any.proto") && !is_known("google/type/any.proto"));
    }

    #[test]
    fn what_files_import_and_lack_comes_with_what_it_imports_itself() {
        let file = |name: &str, imports: &[&str]| FileDescriptorProto {
            name: Some(name.to_owned()),
            dependency: imports.iter().map(|import| (*import).to_owned()).collect(),
            ..FileDescriptorProto::default()
        };
        let imports =
            ["confluent/types/decimal.proto", "google/api/annotations.proto", "own.proto", "b.proto"];
        let missing = missing_from(&[file("a.proto", &imports), file("own.proto", &[])]).unwrap();
        let names: Vec<&str> = missing.iter().map(FileDescriptorProto::name).collect();
        for name in ["confluent/type/decimal.proto", "confluent/types/decimal.proto", "google/api/http.proto"]
        {
            assert!(names.contains(&name), "{names:?}");
        }
        let mut pool = DescriptorPool::global();
        pool.add_file_descriptor_protos(missing).unwrap();
        assert!(pool.get_message_by_name("confluent.type.Decimal").is_some());
        assert!(missing_from(&[file("a.proto", &["google/protobuf/any.proto"])]).unwrap().is_empty());
        // One that is there already is not there twice.
        let own = [file("a.proto", &["google/type/date.proto"]), file("google/type/date.proto", &[])];
        assert!(missing_from(&own).unwrap().is_empty());
    }
}
