//! The tables of the catalog: what each has for columns, and what is in them for one caller.
//!
//! Only columns that clients ask for are there. A relation is written as its columns with their types and defaults:
//! `o` is an object id, `s`, `i` and `l` whole numbers of 2, 4 and 8 bytes, `f` a floating point of 4, `b` true or false, `t` a
//! text, `a` an array of texts. Without a default, null.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::ObjectName;
use pgwire::api::Type;

use super::super::super::TableInfo;
use super::super::settings::SERVER_VERSION;
use super::super::types::{array_of, length_of, modifier_of, type_of};
use super::{OWN, STANDARD};
use crate::query::CATALOG;

/// Object ids of the schemas.
pub(super) const OWN_OID: i64 = 11;
pub(super) const STANDARD_OID: i64 = 13_000;
pub(super) const TABLES_OID: i64 = 2_200;
/// The one role that owns everything.
pub(super) const OWNER: &str = "isobar";
const OWNER_OID: i64 = 10;
/// The first object id that PostgreSQL gives to what users make.
const USERS_OID: i64 = 16_384;

/// Relations with rows, or with columns that others are joined with.
const RELATIONS: [(&str, &str, &str); 32] = [
    (OWN, "pg_am", "oid:o amname:t amhandler:t amtype:t='t'"),
    (OWN, "pg_attrdef", "oid:o adrelid:o adnum:s adbin:t"),
    (
        OWN,
        "pg_attribute",
        "attrelid:o attname:t atttypid:o attstattarget:i=-1 attlen:s attnum:s attndims:i=0 atttypmod:i=-1 attbyval:b=f \
         attalign:t='i' attstorage:t='x' attcompression:t='' attnotnull:b=f atthasdef:b=f atthasmissing:b=f \
         attidentity:t='' attgenerated:t='' attisdropped:b=f attislocal:b=t attinhcount:i=0 attcollation:o=0 attacl:a \
         attoptions:a attfdwoptions:a",
    ),
    (
        OWN,
        "pg_auth_members",
        "oid:o roleid:o member:o grantor:o admin_option:b inherit_option:b set_option:b",
    ),
    (
        OWN,
        "pg_class",
        "oid:o relname:t relnamespace:o=2200 reltype:o=0 reloftype:o=0 relowner:o=10 relam:o=2 relfilenode:o=0 \
         reltablespace:o=0 relpages:i=0 reltuples:f=-1 relallvisible:i=0 reltoastrelid:o=0 relhasindex:b=f \
         relisshared:b=f relpersistence:t='p' relkind:t='r' relnatts:s relchecks:s=0 relhasrules:b=f relhastriggers:b=f \
         relhassubclass:b=f relrowsecurity:b=f relforcerowsecurity:b=f relispopulated:b=t relreplident:t='n' \
         relispartition:b=f relrewrite:o=0 relacl:a reloptions:a relpartbound:t",
    ),
    (
        OWN,
        "pg_collation",
        "oid:o collname:t collnamespace:o collowner:o collprovider:t collcollate:t collctype:t",
    ),
    (
        OWN,
        "pg_constraint",
        "oid:o conname:t connamespace:o contype:t condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o \
         conindid:o conparentid:o confrelid:o confupdtype:t confdeltype:t confmatchtype:t conkey:a confkey:a conbin:t",
    ),
    (
        OWN,
        "pg_database",
        "oid:o datname:t datdba:o=10 encoding:i=6 datlocprovider:t='c' datistemplate:b=f datallowconn:b=t \
         datconnlimit:i=-1 dattablespace:o=1663 datcollate:t='C' datctype:t='C' daticulocale:t daticurules:t \
         datcollversion:t datacl:a",
    ),
    (OWN, "pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype:t"),
    (OWN, "pg_description", "objoid:o classoid:o=1259 objsubid:i=0 description:t"),
    (OWN, "pg_enum", "oid:o enumtypid:o enumsortorder:f enumlabel:t"),
    (OWN, "pg_extension", "oid:o extname:t extowner:o extnamespace:o extversion:t"),
    (OWN, "pg_foreign_table", "ftrelid:o ftserver:o ftoptions:a"),
    (
        OWN,
        "pg_index",
        "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indisprimary:b indisexclusion:b indisvalid:b \
         indisready:b indislive:b indisclustered:b indisreplident:b indkey:a indoption:a indexprs:t indpred:t",
    ),
    (OWN, "pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b"),
    (OWN, "pg_matviews", "schemaname:t matviewname:t matviewowner:t tablespace:t ispopulated:b definition:t"),
    (OWN, "pg_namespace", "oid:o nspname:t nspowner:o=10 nspacl:a"),
    (OWN, "pg_partitioned_table", "partrelid:o partstrat:t partnatts:s partdefid:o"),
    (
        OWN,
        "pg_proc",
        "oid:o proname:t pronamespace:o proowner:o prolang:o prokind:t prorettype:o proretset:b pronargs:s \
         proargtypes:a prosrc:t",
    ),
    (OWN, "pg_range", "rngtypid:o rngsubtype:o rngcollation:o"),
    (
        OWN,
        "pg_roles",
        "rolname:t rolsuper:b=f rolinherit:b=t rolcreaterole:b=f rolcreatedb:b=f rolcanlogin:b=t rolreplication:b=f \
         rolconnlimit:i=-1 rolvaliduntil:t rolbypassrls:b=f rolconfig:a oid:o",
    ),
    (
        OWN,
        "pg_settings",
        "name:t setting:t unit:t category:t short_desc:t context:t='user' vartype:t='string'",
    ),
    (OWN, "pg_shdescription", "objoid:o classoid:o description:t"),
    (OWN, "pg_stat_user_tables", "relid:o schemaname:t relname:t n_live_tup:l last_analyze:t"),
    (
        OWN,
        "pg_tables",
        "schemaname:t='datasets' tablename:t tableowner:t='isobar' tablespace:t hasindexes:b=f hasrules:b=f \
         hastriggers:b=f rowsecurity:b=f",
    ),
    (OWN, "pg_tablespace", "oid:o spcname:t spcowner:o=10 spcacl:a spcoptions:a"),
    (
        OWN,
        "pg_type",
        "oid:o typname:t typnamespace:o=11 typowner:o=10 typlen:s typbyval:b=f typtype:t='b' typcategory:t \
         typispreferred:b=f typisdefined:b=t typdelim:t=',' typrelid:o=0 typelem:o=0 typarray:o=0 typnotnull:b=f \
         typbasetype:o=0 typtypmod:i=-1 typndims:i=0 typcollation:o=0 typdefault:t",
    ),
    (OWN, "pg_views", "schemaname:t viewname:t viewowner:t definition:t"),
    (
        STANDARD,
        "columns",
        "table_catalog:t='isobar' table_schema:t='datasets' table_name:t column_name:t ordinal_position:i \
         column_default:t is_nullable:t data_type:t character_maximum_length:i character_octet_length:i \
         numeric_precision:i numeric_precision_radix:i numeric_scale:i datetime_precision:i udt_catalog:t='isobar' \
         udt_schema:t='pg_catalog' udt_name:t is_identity:t='NO' is_generated:t='NEVER' is_updatable:t='NO'",
    ),
    (
        STANDARD,
        "schemata",
        "catalog_name:t='isobar' schema_name:t schema_owner:t='isobar' default_character_set_name:t sql_path:t",
    ),
    (
        STANDARD,
        "tables",
        "table_catalog:t='isobar' table_schema:t='datasets' table_name:t table_type:t \
         is_insertable_into:t='NO' is_typed:t='NO'",
    ),
    (STANDARD, "views", "table_catalog:t table_schema:t table_name:t view_definition:t check_option:t"),
];

/// Those of [`RELATIONS`] that never have a row here.
const EMPTY: [&str; 18] = [
    "pg_attrdef",
    "pg_auth_members",
    "pg_collation",
    "pg_constraint",
    "pg_depend",
    "pg_enum",
    "pg_extension",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_matviews",
    "pg_partitioned_table",
    "pg_proc",
    "pg_range",
    "pg_shdescription",
    "pg_stat_user_tables",
    "pg_views",
    "views",
];

/// Further relations that never have a row here, and of which no more is known.
const UNKNOWN: [(&str, &str); 48] = [
    (OWN, "pg_aggregate"),
    (OWN, "pg_amop"),
    (OWN, "pg_amproc"),
    (OWN, "pg_available_extensions"),
    (OWN, "pg_cast"),
    (OWN, "pg_conversion"),
    (OWN, "pg_cursors"),
    (OWN, "pg_db_role_setting"),
    (OWN, "pg_default_acl"),
    (OWN, "pg_event_trigger"),
    (OWN, "pg_foreign_data_wrapper"),
    (OWN, "pg_foreign_server"),
    (OWN, "pg_group"),
    (OWN, "pg_indexes"),
    (OWN, "pg_language"),
    (OWN, "pg_largeobject_metadata"),
    (OWN, "pg_locks"),
    (OWN, "pg_opclass"),
    (OWN, "pg_operator"),
    (OWN, "pg_opfamily"),
    (OWN, "pg_policies"),
    (OWN, "pg_policy"),
    (OWN, "pg_prepared_statements"),
    (OWN, "pg_prepared_xacts"),
    (OWN, "pg_publication"),
    (OWN, "pg_publication_namespace"),
    (OWN, "pg_publication_rel"),
    (OWN, "pg_replication_slots"),
    (OWN, "pg_rewrite"),
    (OWN, "pg_rules"),
    (OWN, "pg_seclabel"),
    (OWN, "pg_sequence"),
    (OWN, "pg_sequences"),
    (OWN, "pg_stat_activity"),
    (OWN, "pg_statistic"),
    (OWN, "pg_statistic_ext"),
    (OWN, "pg_stats"),
    (OWN, "pg_subscription"),
    (OWN, "pg_transform"),
    (OWN, "pg_trigger"),
    (OWN, "pg_user_mapping"),
    (STANDARD, "constraint_column_usage"),
    (STANDARD, "key_column_usage"),
    (STANDARD, "referential_constraints"),
    (STANDARD, "routines"),
    (STANDARD, "sequences"),
    (STANDARD, "table_constraints"),
    (STANDARD, "triggers"),
];

/// Object ids of relations that clients compare with by name.
const KNOWN_OIDS: [(&str, i64); 12] = [
    ("pg_am", 2_601),
    ("pg_attribute", 1_249),
    ("pg_class", 1_259),
    ("pg_collation", 3_456),
    ("pg_constraint", 2_606),
    ("pg_database", 1_262),
    ("pg_extension", 3_079),
    ("pg_namespace", 2_615),
    ("pg_proc", 1_255),
    ("pg_roles", 12_000),
    ("pg_trigger", 2_620),
    ("pg_type", 1_247),
];

/// Types that are listed, each with its arrays if it has them.
static TYPES: [(Type, &str); 23] = [
    (Type::BOOL, "B"),
    (Type::BYTEA, "U"),
    (Type::CHAR, "Z"),
    (Type::NAME, "S"),
    (Type::INT8, "N"),
    (Type::INT2, "N"),
    (Type::INT4, "N"),
    (Type::TEXT, "S"),
    (Type::OID, "N"),
    (Type::JSON, "U"),
    (Type::JSONB, "U"),
    (Type::FLOAT4, "N"),
    (Type::FLOAT8, "N"),
    (Type::UNKNOWN, "X"),
    (Type::BPCHAR, "S"),
    (Type::VARCHAR, "S"),
    (Type::DATE, "D"),
    (Type::TIME, "D"),
    (Type::TIMESTAMP, "D"),
    (Type::TIMESTAMPTZ, "D"),
    (Type::INTERVAL, "T"),
    (Type::NUMERIC, "N"),
    (Type::UUID, "U"),
];

/// Whether `name` is that of a relation of PostgreSQL's own, which is known by its first letters.
pub(super) fn is_relation(name: &str) -> bool {
    name.starts_with("pg_")
        && (RELATIONS.iter().any(|(_, known, _)| *known == name)
            || UNKNOWN.iter().any(|(_, known)| *known == name))
}

/// Schema and name of the relation that is meant, if it is one of the catalog's.
pub(super) fn relation_of(name: &ObjectName) -> Option<(&'static str, &'static str)> {
    let parts: Vec<String> =
        name.0.iter().filter_map(|part| part.as_ident()).map(super::rewrite::folded).collect();
    let (schema, relation) = match parts.as_slice() {
        [relation] => (OWN, relation),
        [schema, relation] => (schema.as_str(), relation),
        [catalog, schema, relation] if catalog == CATALOG.0 => (schema.as_str(), relation),
        _ => return None,
    };
    let known = RELATIONS.iter().map(|(schema, relation, _)| (*schema, *relation)).chain(UNKNOWN);
    let mut known = known.filter(|known| known.0 == schema && known.1 == relation);
    known.next()
}

/// Whether a relation of the catalog never has a row here.
pub(super) fn is_empty(relation: (&str, &str)) -> bool {
    EMPTY.contains(&relation.1) || UNKNOWN.contains(&relation)
}

/// Whether a column of this name never has a value here: privileges and options, all of which are arrays.
pub(super) fn is_always_null(column: &str) -> bool {
    let mut all = RELATIONS.iter().flat_map(|(_, _, columns)| columns_in(columns));
    all.any(|known| known.name == column && known.kind == "a")
}

/// The names of the columns of a relation.
pub(super) fn columns_of(relation: (&str, &str)) -> Vec<&'static str> {
    let found = RELATIONS.iter().find(|(schema, name, _)| (*schema, *name) == relation);
    found.map(|(_, _, columns)| columns_in(columns).map(|column| column.name).collect()).unwrap_or_default()
}

struct Column {
    name: &'static str,
    kind: &'static str,
    default: Option<&'static str>,
}

fn columns_in(columns: &'static str) -> impl Iterator<Item = Column> {
    columns.split_whitespace().map(|column| {
        let (name, kind) = column.split_once(':').unwrap_or((column, "t"));
        let (kind, default) = match kind.split_once('=') {
            Some((kind, default)) => (kind, Some(default)),
            None => (kind, None),
        };
        Column { name, kind, default }
    })
}

fn data_type_of(kind: &str) -> DataType {
    match kind {
        "o" | "l" => DataType::Int64,
        "s" => DataType::Int16,
        "i" => DataType::Int32,
        "f" => DataType::Float32,
        "b" => DataType::Boolean,
        "a" => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        _ => DataType::Utf8,
    }
}

/// The value of a column where a row does not say.
fn default_of(column: &Column) -> Result<ScalarValue, DataFusionError> {
    let data_type = data_type_of(column.kind);
    match (column.default, &data_type) {
        (None, _) => ScalarValue::try_from(&data_type),
        (Some(default), DataType::Boolean) => Ok(ScalarValue::Boolean(Some(default == "t"))),
        (Some(default), DataType::Utf8) => Ok(ScalarValue::from(default.trim_matches('\''))),
        (Some(default), _) => ScalarValue::try_from_string(default.to_owned(), &data_type),
    }
}

/// A row: the values of those columns that have others than the default.
type Row = Vec<(&'static str, ScalarValue)>;

/// What is in the catalog for one caller.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    /// The caller's name.
    pub(super) user: String,
    /// Tables by their object id.
    tables: BTreeMap<i64, TableInfo>,
    /// The number of the connection.
    pub(super) process: i32,
    /// Settings of the session, by name in small letters.
    pub(super) settings: BTreeMap<String, String>,
}

impl Contents {
    pub(super) fn new(user: &str, tables: Vec<TableInfo>) -> Self {
        let mut by_oid = BTreeMap::new();
        for table in tables {
            // The same for as long as the table has its name, whatever else there is.
            let mut oid = oid_of(&table.name);
            while by_oid.contains_key(&oid) {
                oid += 1;
            }
            by_oid.insert(oid, table);
        }
        Self { user: user.to_owned(), tables: by_oid, process: 0, settings: BTreeMap::new() }
    }

    /// The same, for a query in the session of connection `process`, which has these settings.
    pub(super) fn in_session(self, process: i32, settings: BTreeMap<String, String>) -> Self {
        Self { process, settings, ..self }
    }

    /// The object id of a relation by its name, with or without its schema.
    pub(super) fn oid_of_relation(&self, name: &str) -> Option<i64> {
        let plain = name.replace('"', "");
        let (schema, relation) = plain.rsplit_once('.').unwrap_or(("", &plain));
        if schema == OWN || schema.is_empty() {
            let known = KNOWN_OIDS.iter().find(|(known, _)| *known == relation);
            if let Some((_, oid)) = known {
                return Some(*oid);
            }
        }
        let is_here =
            schema.is_empty() || schema == CATALOG.1 || schema == format!("{}.{}", CATALOG.0, CATALOG.1);
        let mut tables = self.tables.iter().filter(|(_, table)| is_here && table.name == relation);
        tables.next().map(|(oid, _)| *oid)
    }

    /// The name of a relation by its object id.
    pub(super) fn name_of_relation(&self, oid: i64) -> Option<String> {
        let known = KNOWN_OIDS.iter().find(|(_, known)| *known == oid).map(|(name, _)| (*name).to_owned());
        known.or_else(|| self.tables.get(&oid).map(|table| table.name.clone()))
    }

    /// What is said of a table, or of its column with a number from 1.
    pub(super) fn comment(&self, oid: i64, column: i64) -> Option<String> {
        let table = self.tables.get(&oid)?;
        match usize::try_from(column).ok()?.checked_sub(1) {
            None => table.comment.clone(),
            Some(at) => table.schema.fields().get(at)?.metadata().get("comment").cloned(),
        }
    }

    /// The rows of a relation; `None` if nothing is known of it but its name.
    pub(super) fn relation(&self, relation: (&str, &str)) -> Result<Option<RecordBatch>, DataFusionError> {
        let found = RELATIONS.iter().find(|(schema, name, _)| (*schema, *name) == relation);
        found.map(|(_, name, columns)| batch(columns, &self.rows(name))).transpose()
    }

    fn rows(&self, relation: &str) -> Vec<Row> {
        let text = |text: &str| ScalarValue::from(text);
        match relation {
            "pg_am" => vec![vec![("oid", oid(2)), ("amname", text("isobar"))]],
            "pg_attribute" => self.columns().map(|column| column.attribute()).collect(),
            "pg_class" => {
                let class = |(own, table): (&i64, &TableInfo)| {
                    let columns = i16::try_from(table.schema.fields().len()).unwrap_or(i16::MAX);
                    vec![
                        ("oid", oid(*own)),
                        ("relname", text(&table.name)),
                        ("relnatts", ScalarValue::Int16(Some(columns))),
                    ]
                };
                self.tables.iter().map(class).collect()
            }
            "pg_database" => vec![vec![("oid", oid(5)), ("datname", text(CATALOG.0))]],
            "pg_description" => self.descriptions(),
            "pg_namespace" => [(OWN_OID, OWN), (STANDARD_OID, STANDARD), (TABLES_OID, CATALOG.1)]
                .map(|(own, name)| vec![("oid", oid(own)), ("nspname", text(name))])
                .into(),
            "pg_roles" => {
                let mut roles = vec![vec![
                    ("oid", oid(OWNER_OID)),
                    ("rolname", text(OWNER)),
                    ("rolcanlogin", ScalarValue::from(false)),
                ]];
                if self.user != OWNER {
                    roles.push(vec![("oid", oid(USERS_OID - 1)), ("rolname", text(&self.user))]);
                }
                roles
            }
            "pg_settings" => {
                let setting = |(name, value): (&String, &String)| {
                    vec![("name", text(name)), ("setting", text(value)), ("short_desc", text(""))]
                };
                self.settings.iter().map(setting).collect()
            }
            "pg_tables" => self.tables.values().map(|table| vec![("tablename", text(&table.name))]).collect(),
            "pg_tablespace" => vec![vec![("oid", oid(1_663)), ("spcname", text("pg_default"))]],
            "pg_type" => types(),
            "columns" => self.columns().map(|column| column.standard()).collect(),
            "schemata" => [OWN, STANDARD, CATALOG.1].map(|name| vec![("schema_name", text(name))]).into(),
            "tables" => {
                let row = |name: &str| vec![("table_name", text(name)), ("table_type", text("BASE TABLE"))];
                self.tables.values().map(|table| row(&table.name)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> impl Iterator<Item = TableColumn<'_>> {
        self.tables.iter().flat_map(|(oid, table)| {
            let fields = table.schema.fields().iter().enumerate();
            fields.map(move |(at, field)| TableColumn { oid: *oid, table: &table.name, at, field })
        })
    }

    fn descriptions(&self) -> Vec<Row> {
        let of_tables = self.tables.iter().map(|(oid, table)| (*oid, 0, table.comment.clone()));
        let of_columns = self.columns().map(|column| {
            let number = column.number();
            (column.oid, i32::from(number), self.comment(column.oid, i64::from(number)))
        });
        let described = of_tables.chain(of_columns);
        described
            .filter_map(|(own, column, comment)| {
                let description = ScalarValue::from(comment?);
                Some(vec![
                    ("objoid", oid(own)),
                    ("objsubid", ScalarValue::from(column)),
                    ("description", description),
                ])
            })
            .collect()
    }
}

/// A column of a table.
struct TableColumn<'a> {
    oid: i64,
    table: &'a str,
    at: usize,
    field: &'a Field,
}

impl TableColumn<'_> {
    fn number(&self) -> i16 {
        i16::try_from(self.at + 1).unwrap_or(i16::MAX)
    }

    fn attribute(&self) -> Row {
        let data_type = type_of(self.field.data_type());
        vec![
            ("attrelid", oid(self.oid)),
            ("attname", ScalarValue::from(self.field.name().as_str())),
            ("atttypid", oid(i64::from(data_type.oid()))),
            ("attlen", ScalarValue::Int16(Some(length_of(&data_type)))),
            ("attnum", ScalarValue::Int16(Some(self.number()))),
            ("attndims", ScalarValue::from(i32::from(data_type.name().starts_with('_')))),
            ("atttypmod", ScalarValue::from(modifier_of(self.field.data_type()))),
            ("attnotnull", ScalarValue::from(!self.field.is_nullable())),
        ]
    }

    fn standard(&self) -> Row {
        let data_type = type_of(self.field.data_type());
        let modifier = modifier_of(self.field.data_type());
        let is_array = data_type.name().starts_with('_');
        let shown = if is_array { "ARRAY".to_owned() } else { formatted(&data_type, -1) };
        let (precision, scale) = match data_type {
            Type::INT2 => (Some(16), Some(0)),
            Type::INT4 => (Some(32), Some(0)),
            Type::INT8 => (Some(64), Some(0)),
            Type::FLOAT4 => (Some(24), None),
            Type::FLOAT8 => (Some(53), None),
            Type::NUMERIC if modifier >= 0 => (Some((modifier - 4) >> 16), Some((modifier - 4) & 0xffff)),
            _ => (None, None),
        };
        vec![
            ("table_name", ScalarValue::from(self.table)),
            ("column_name", ScalarValue::from(self.field.name().as_str())),
            ("ordinal_position", ScalarValue::from(i32::from(self.number()))),
            ("is_nullable", ScalarValue::from(if self.field.is_nullable() { "YES" } else { "NO" })),
            ("data_type", ScalarValue::from(shown)),
            ("udt_name", ScalarValue::from(data_type.name())),
            ("numeric_precision", ScalarValue::Int32(precision)),
            ("numeric_scale", ScalarValue::Int32(scale)),
        ]
    }
}

fn oid(oid: i64) -> ScalarValue {
    ScalarValue::Int64(Some(oid))
}

/// A number for a name, among those that PostgreSQL gives to what users make.
fn oid_of(name: &str) -> i64 {
    // FNV-1a.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    USERS_OID + i64::from(hash & 0x3fff_ffff)
}

fn types() -> Vec<Row> {
    let mut rows = Vec::new();
    for (data_type, category) in &TYPES {
        let array = array_of(data_type);
        let row = |own: &Type, category: &str| {
            vec![
                ("oid", oid(i64::from(own.oid()))),
                ("typname", ScalarValue::from(own.name())),
                ("typlen", ScalarValue::Int16(Some(length_of(own)))),
                ("typcategory", ScalarValue::from(category)),
            ]
        };
        let mut plain = row(data_type, category);
        if let Some(array) = array {
            plain.push(("typarray", oid(i64::from(array.oid()))));
            let mut listed = row(&array, "A");
            listed.push(("typelem", oid(i64::from(data_type.oid()))));
            rows.push(listed);
        }
        rows.push(plain);
    }
    rows
}

fn batch(columns: &'static str, rows: &[Row]) -> Result<RecordBatch, DataFusionError> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::<ArrayRef>::new());
    for column in columns_in(columns) {
        let data_type = data_type_of(column.kind);
        let default = default_of(&column)?;
        let values = rows.iter().map(|row| {
            let own = row.iter().find(|(name, _)| *name == column.name);
            own.map_or_else(|| default.clone(), |(_, value)| value.clone())
        });
        arrays.push(match rows.is_empty() {
            true => new_empty_array(&data_type),
            false => ScalarValue::iter_to_array(values)?,
        });
        fields.push(Field::new(column.name, data_type, true));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// The name of a type as `format_type` writes it, with what a modifier says.
pub(super) fn formatted(data_type: &Type, modifier: i32) -> String {
    if let Some(element) = data_type.name().strip_prefix('_') {
        let element = TYPES.iter().find(|(own, _)| own.name() == element);
        return element.map_or("???".to_owned(), |(own, _)| format!("{}[]", formatted(own, modifier)));
    }
    let name = match *data_type {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double precision",
        Type::CHAR => "\"char\"",
        Type::BPCHAR => "character",
        Type::VARCHAR => "character varying",
        Type::TIME => "time without time zone",
        Type::TIMESTAMP => "timestamp without time zone",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        Type::NUMERIC if modifier >= 4 => {
            return format!("numeric({},{})", (modifier - 4) >> 16, (modifier - 4) & 0xffff);
        }
        _ => data_type.name(),
    };
    name.to_owned()
}

/// What `version()` says.
pub(super) fn version() -> String {
    format!("PostgreSQL {SERVER_VERSION} (isobar {})", env!("CARGO_PKG_VERSION"))
}

/// The object id of a type by one of its names.
pub(super) fn oid_of_type(name: &str) -> Option<i64> {
    let plain = name.trim_start_matches("pg_catalog.").replace('"', "");
    let all = TYPES.iter().flat_map(|(own, _)| [Some(own.clone()), array_of(own)]).flatten();
    let mut found = all.filter(|own| own.name() == plain || formatted(own, -1) == plain);
    found.next().map(|own| i64::from(own.oid()))
}
