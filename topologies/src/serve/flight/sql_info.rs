//! What the server can do, as JDBC and ADBC ask for it (Flight SQL's `SqlInfo`).
//!
//! JDBC asks for all at once and takes most for granted: some versions fail for what is missing, so nothing is.

use std::collections::{BTreeMap, BTreeSet};

use arrow_flight::error::FlightError;
use arrow_flight::sql::SqlInfo;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries,
    SqlSupportedTransaction, SqlSupportedUnions, SqlSupportsConvert, SqlTransactionIsolationLevel,
    SupportedSqlGrammar,
};
use datafusion::functions::all_default_functions;
use datafusion::sql::sqlparser::keywords::{
    Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS,
    RESERVED_FOR_TABLE_FACTOR,
};

/// The release of the Arrow libraries that this is built with; see the workspace's `Cargo.toml`.
const ARROW_VERSION: &str = "59";
/// The first level of SQL-92, which Flight SQL's crate has no name for.
const ANSI92_ENTRY: i32 = 0;

/// A set of what an enumeration names, as bits.
fn bits(members: &[i32]) -> i32 {
    members.iter().fold(0, |set, member| set | (1 << member))
}

/// All of it.
pub(super) fn build() -> Result<SqlInfoData, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    server(&mut info);
    syntax(&mut info);
    support(&mut info);
    limits(&mut info);
    transactions(&mut info);
    info.build()
}

fn server(info: &mut SqlInfoDataBuilder) {
    info.append(SqlInfo::FlightSqlServerName, "isobar");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    // Nothing is kept for a statement, so there is nothing to let go of.
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
}

fn syntax(info: &mut SqlInfoDataBuilder) {
    for nothing_is_made in [SqlInfo::SqlDdlCatalog, SqlInfo::SqlDdlSchema, SqlInfo::SqlDdlTable] {
        info.append(nothing_is_made, false);
    }
    let lowercase = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    info.append(SqlInfo::SqlIdentifierCase, lowercase);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // As they are written; the enumeration has no better word for it.
    let unknown = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32;
    info.append(SqlInfo::SqlQuotedIdentifierCase, unknown);
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlKeywords, keywords());
    let functions = Functions::all();
    info.append(SqlInfo::SqlNumericFunctions, functions.numeric);
    info.append(SqlInfo::SqlStringFunctions, functions.string);
    info.append(SqlInfo::SqlSystemFunctions, functions.other);
    info.append(SqlInfo::SqlDatetimeFunctions, functions.time);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
}

fn support(info: &mut SqlInfoDataBuilder) {
    for supported in [
        SqlInfo::SqlSupportsColumnAliasing,
        SqlInfo::SqlNullPlusNullIsNull,
        SqlInfo::SqlSupportsTableCorrelationNames,
        SqlInfo::SqlSupportsExpressionsInOrderBy,
        SqlInfo::SqlSupportsOrderByUnrelated,
        SqlInfo::SqlSupportsLikeEscapeClause,
        SqlInfo::SqlSupportsNonNullableColumns,
        SqlInfo::SqlCorrelatedSubqueriesSupported,
    ] {
        info.append(supported, true);
    }
    for unsupported in [
        SqlInfo::SqlSupportsDifferentTableCorrelationNames,
        SqlInfo::SqlSupportsIntegrityEnhancementFacility,
        SqlInfo::SqlSelectForUpdateSupported,
        SqlInfo::SqlStoredProceduresSupported,
        SqlInfo::SqlBatchUpdatesSupported,
        SqlInfo::SqlSavepointsSupported,
        SqlInfo::SqlNamedParametersSupported,
        SqlInfo::SqlLocatorsUpdateCopy,
        SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported,
    ] {
        info.append(unsupported, false);
    }
    info.append(SqlInfo::SqlSupportsConvert, conversions());
    let beyond = SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32;
    info.append(
        SqlInfo::SqlSupportedGroupBy,
        bits(&[SqlSupportedGroupBy::SqlGroupByUnrelated as i32, beyond]),
    );
    let core = SupportedSqlGrammar::SqlCoreGrammar as i32;
    info.append(SqlInfo::SqlSupportedGrammar, bits(&[SupportedSqlGrammar::SqlMinimumGrammar as i32, core]));
    info.append(SqlInfo::SqlAnsi92SupportedLevel, bits(&[ANSI92_ENTRY]));
    // The specification has a number here, and the JDBC driver reads a set.
    let limited = SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32;
    let full = SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32;
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, bits(&[limited, full]));
    // Names stand in queries only: there are no procedures, indexes or privileges to define.
    info.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ];
    info.append(SqlInfo::SqlSupportedSubqueries, bits(&subqueries));
    let unions = [SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32];
    info.append(SqlInfo::SqlSupportedUnions, bits(&unions));
    let forward = bits(&[SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]);
    info.append(SqlInfo::SqlSupportedResultSetTypes, forward);
    let read_only = bits(&[SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32]);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, read_only);
    for no_such_answer in [
        SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        info.append(no_such_answer, 0_i32);
    }
}

/// Zero: there is no limit, or none that can be said in these units.
fn limits(info: &mut SqlInfoDataBuilder) {
    for unlimited in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0_i64);
    }
    info.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
}

fn transactions(info: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    // The specification has 32 bits here, and the JDBC driver fails with any but 64.
    info.append(SqlInfo::SqlDefaultTransactionIsolation, i64::from(none));
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits(&[none]));
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
}

/// Words that must be in quotes to be names, in one place or another.
fn keywords() -> Vec<String> {
    let reserved: [&[Keyword]; 4] = [
        RESERVED_FOR_COLUMN_ALIAS,
        RESERVED_FOR_IDENTIFIER,
        RESERVED_FOR_TABLE_ALIAS,
        RESERVED_FOR_TABLE_FACTOR,
    ];
    let words: BTreeSet<String> = reserved.iter().copied().flatten().map(Keyword::to_string).collect();
    words.into_iter().collect()
}

/// Names of scalar functions, in order.
#[derive(Default)]
struct Functions {
    numeric: Vec<String>,
    string: Vec<String>,
    time: Vec<String>,
    other: Vec<String>,
}

impl Functions {
    fn all() -> Self {
        let mut functions = Self::default();
        for function in all_default_functions() {
            let about = function.documentation().map_or("", |documentation| documentation.doc_section.label);
            let kind = match about {
                "Math Functions" => &mut functions.numeric,
                "String Functions" | "Regular Expression Functions" | "Binary String Functions" => {
                    &mut functions.string
                }
                "Time and Date Functions" => &mut functions.time,
                _ => &mut functions.other,
            };
            kind.push(function.name().to_owned());
            kind.extend_from_slice(function.aliases());
        }
        for kind in [&mut functions.numeric, &mut functions.string, &mut functions.time, &mut functions.other]
        {
            kind.sort_unstable();
            kind.dedup();
        }
        functions
    }
}

/// What `CAST` makes of what: numbers and texts of each other, times of texts, and texts of all.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert as Type;
    let numbers = [
        Type::SqlConvertTinyint,
        Type::SqlConvertSmallint,
        Type::SqlConvertInteger,
        Type::SqlConvertBigint,
        Type::SqlConvertReal,
        Type::SqlConvertFloat,
        Type::SqlConvertDecimal,
        Type::SqlConvertNumeric,
    ];
    let texts = [Type::SqlConvertChar, Type::SqlConvertVarchar, Type::SqlConvertLongvarchar];
    let (date, timestamp) = (Type::SqlConvertDate, Type::SqlConvertTimestamp);
    let of = |kinds: &[&[Type]]| -> Vec<i32> {
        kinds.iter().copied().flatten().map(|kind| *kind as i32).collect()
    };
    let from_numbers = numbers.iter().map(|number| (*number as i32, of(&[&numbers, &texts])));
    let from_texts = texts.iter().map(|text| (*text as i32, of(&[&numbers, &texts, &[date, timestamp]])));
    let from_times = [date, timestamp].map(|time| (time as i32, of(&[&texts, &[date, timestamp]])));
    from_numbers.chain(from_texts).chain(from_times).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::UInt32Type;

    use super::*;

    /// What the specification lists, without versions of Substrait, which there is not.
    const ASKED: [std::ops::RangeInclusive<u32>; 4] = [0..=5, 8..=11, 100..=101, 500..=576];

    #[test]
    fn every_question_has_an_answer() {
        let all = build().unwrap().record_batch(None).unwrap();
        let answered: Vec<u32> = all.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let asked: Vec<u32> = ASKED.into_iter().flatten().collect();
        assert_eq!(answered, asked);
    }

    #[test]
    fn functions_and_keywords_are_those_of_the_engine() {
        let functions = Functions::all();
        for (kind, names) in [
            (&functions.numeric, ["abs", "round", "sqrt"]),
            (&functions.string, ["lower", "regexp_like", "upper"]),
            (&functions.time, ["date_trunc", "now", "to_timestamp"]),
            (&functions.other, ["coalesce", "nullif", "sha256"]),
        ] {
            for name in names {
                assert!(kind.iter().any(|function| function == name), "{name} is not in {kind:?}");
            }
        }
        let keywords = keywords();
        for word in ["FROM", "ORDER", "WHERE"] {
            assert!(keywords.iter().any(|keyword| keyword == word), "{word} is not in {keywords:?}");
        }
    }

    #[test]
    fn a_set_is_bits() {
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[0, 2]), 5);
    }
}
