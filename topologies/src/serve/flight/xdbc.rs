//! Types of columns, as JDBC and ODBC know them.

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

/// All that queries name.
pub(super) fn build() -> Result<XdbcTypeInfoData, FlightError> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    let mut append = |info| types.append(info);
    append(base("BOOLEAN", XdbcDataType::XdbcBit, 1));
    for (name, kind, digits) in [
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("INTEGER", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
    ] {
        let scale = Some(0);
        append(XdbcTypeInfo { minimum_scale: scale, maximum_scale: scale, ..number(name, kind, digits, 10) });
    }
    append(number("REAL", XdbcDataType::XdbcReal, 24, 2));
    append(number("DOUBLE", XdbcDataType::XdbcDouble, 53, 2));
    append(XdbcTypeInfo {
        create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        ..number("DECIMAL", XdbcDataType::XdbcDecimal, 38, 10)
    });
    append(XdbcTypeInfo {
        case_sensitive: true,
        ..quoted(base("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX))
    });
    append(XdbcTypeInfo {
        literal_prefix: Some("x'".to_owned()),
        literal_suffix: Some("'".to_owned()),
        ..base("BYTEA", XdbcDataType::XdbcVarbinary, i32::MAX)
    });
    append(quoted(base("DATE", XdbcDataType::XdbcDate, 10)));
    append(timed("TIME", XdbcDataType::XdbcTime, 18, XdbcDatetimeSubcode::XdbcSubcodeTime));
    append(timed("TIMESTAMP", XdbcDataType::XdbcTimestamp, 29, XdbcDatetimeSubcode::XdbcSubcodeTimestamp));
    append(quoted(base("INTERVAL", XdbcDataType::XdbcInterval, i32::MAX)));
    types.build()
}

fn base(name: &str, kind: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        local_type_name: Some(name.to_owned()),
        data_type: kind,
        sql_data_type: kind,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..XdbcTypeInfo::default()
    }
}

/// Digits count in base `radix`.
fn number(name: &str, kind: XdbcDataType, digits: i32, radix: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        num_prec_radix: Some(radix),
        ..base(name, kind, digits)
    }
}

fn quoted(info: XdbcTypeInfo) -> XdbcTypeInfo {
    XdbcTypeInfo { literal_prefix: Some("'".to_owned()), literal_suffix: Some("'".to_owned()), ..info }
}

/// With up to nine digits of a second.
fn timed(name: &str, kind: XdbcDataType, size: i32, subcode: XdbcDatetimeSubcode) -> XdbcTypeInfo {
    XdbcTypeInfo {
        minimum_scale: Some(0),
        maximum_scale: Some(9),
        datetime_subcode: Some(subcode),
        ..quoted(base(name, kind, size))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn types_are_in_the_order_of_their_numbers() {
        let types = build().unwrap().record_batch(None).unwrap();
        let names: Vec<&str> = types.column(0).as_string::<i32>().iter().flatten().collect();
        assert_eq!(
            names,
            [
                "BOOLEAN",
                "TINYINT",
                "BIGINT",
                "BYTEA",
                "DECIMAL",
                "INTEGER",
                "SMALLINT",
                "REAL",
                "DOUBLE",
                "INTERVAL",
                "VARCHAR",
                "DATE",
                "TIME",
                "TIMESTAMP"
            ]
        );
        assert_eq!(build().unwrap().record_batch(12).unwrap().num_rows(), 1);
    }
}
