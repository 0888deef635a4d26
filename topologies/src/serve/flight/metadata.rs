//! What there is: catalogs, schemas, tables and keys, as Flight SQL asks for them.
//!
//! Each dataset is a table of the one schema of the one catalog. There are no keys.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::Command;
use tonic::Status;

use super::status::status;
use super::{Flight, plain};
use crate::query::CATALOG;
use crate::serve::Caller;

/// What kind of table all of them are.
const TABLE: &str = "TABLE";

impl Flight {
    /// The rows that answer `command`, `None` if it is not about what there is.
    pub(super) async fn metadata(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Option<RecordBatch>, Status> {
        let empty = self.metadata_schema(&command);
        let rows = match command {
            Command::CommandGetCatalogs(command) => {
                let mut builder = command.into_builder();
                builder.append(CATALOG.0);
                builder.build()
            }
            Command::CommandGetDbSchemas(command) => {
                let mut builder = command.into_builder();
                builder.append(CATALOG.0, CATALOG.1);
                builder.build()
            }
            Command::CommandGetTableTypes(command) => {
                let mut builder = command.into_builder();
                builder.append(TABLE);
                builder.build()
            }
            Command::CommandGetTables(command) => {
                let tables = self.engine.tables(caller).await.map_err(status)?;
                let mut builder = command.into_builder();
                let appended = tables.iter().try_for_each(|table| {
                    builder.append(CATALOG.0, CATALOG.1, &table.name, TABLE, &plain::schema(&table.schema))
                });
                appended.and_then(|()| builder.build())
            }
            Command::CommandGetSqlInfo(command) => command.into_builder(&self.sql_info).build(),
            Command::CommandGetXdbcTypeInfo(command) => command.into_builder(&self.types).build(),
            _ => match empty {
                Some(schema) => Ok(RecordBatch::new_empty(schema)),
                None => return Ok(None),
            },
        };
        rows.map(Some).map_err(|error| match error {
            FlightError::Arrow(error) => Status::invalid_argument(error.to_string()),
            other => other.into(),
        })
    }

    /// The columns of the answer to `command`, `None` if it is not about what there is.
    pub(super) fn metadata_schema(&self, command: &Command) -> Option<SchemaRef> {
        Some(match command {
            Command::CommandGetCatalogs(command) => command.into_builder().schema(),
            Command::CommandGetDbSchemas(command) => command.clone().into_builder().schema(),
            Command::CommandGetTableTypes(command) => command.into_builder().schema(),
            Command::CommandGetTables(command) => command.clone().into_builder().schema(),
            Command::CommandGetSqlInfo(_) => self.sql_info.schema(),
            Command::CommandGetXdbcTypeInfo(_) => self.types.schema(),
            Command::CommandGetPrimaryKeys(_) => primary_keys(),
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => foreign_keys(),
            _ => return None,
        })
    }
}

fn primary_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

fn foreign_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}
