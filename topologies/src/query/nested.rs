//! Columns of files that are older than fields inside them: those fields are null.
//!
//! DataFusion fills in columns, and fields of structs, also of structs in lists. It does not look into the values of maps,
//! where it goes by the order of fields. So a column whose file lacks a field somewhere inside a map is read as it is and
//! then filled by us, [`filled`], as a compaction does; every other column is left to DataFusion, which knows better what
//! of a file need not be read.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use isobar_connectors::dataset::filled;

/// Makes expressions over a table's columns ones over a file's.
#[derive(Debug)]
pub(super) struct FilledColumns;

impl PhysicalExprAdapterFactory for FilledColumns {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let mut filled = HashMap::new();
        let mut fields = Vec::with_capacity(table.fields().len());
        for field in table.fields() {
            match file.fields().find(field.name()) {
                Some((_, stored)) if lacks_in_maps(field.data_type(), stored.data_type()) => {
                    filled.insert(field.name().clone(), field.clone());
                    // As if the table had no more than the file, for now.
                    fields.push(stored.clone());
                }
                _ => fields.push(field.clone()),
            }
        }
        let table = Arc::new(Schema::new(fields));
        let others = DefaultPhysicalExprAdapterFactory.create(table, file)?;
        Ok(Arc::new(FilledColumnsOfFile { others, filled }))
    }
}

/// The same for one file.
#[derive(Debug)]
struct FilledColumnsOfFile {
    others: Arc<dyn PhysicalExprAdapter>,
    /// By name, the columns as the table has them that are filled here.
    filled: HashMap<String, FieldRef>,
}

impl PhysicalExprAdapter for FilledColumnsOfFile {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.others.rewrite(expr)?;
        // From the leaves upwards, so that no column is filled twice.
        let filled = expr.transform_up(|expr| {
            let name = expr.downcast_ref::<Column>().map(Column::name);
            Ok(match name.and_then(|name| self.filled.get(name)).cloned() {
                Some(field) => Transformed::yes(Arc::new(Filled { stored: expr, field }) as _),
                None => Transformed::no(expr),
            })
        });
        filled.data()
    }
}

/// A column of a file as a column of the table.
#[derive(Debug, Eq)]
struct Filled {
    stored: Arc<dyn PhysicalExpr>,
    field: FieldRef,
}

// Derived, this would move out of `stored`: rust-lang/rust#78808.
impl PartialEq for Filled {
    fn eq(&self, other: &Self) -> bool {
        self.stored.eq(&other.stored) && self.field == other.field
    }
}

impl Hash for Filled {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.stored.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filled({})", self.stored)
    }
}

impl PhysicalExpr for Filled {
    fn return_field(&self, _file: &Schema) -> Result<FieldRef> {
        Ok(self.field.clone())
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        let stored = self.stored.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(ColumnarValue::Array(filled(&stored, self.field.data_type())?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.stored]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let stored = children.pop().unwrap_or_else(|| self.stored.clone());
        Ok(Arc::new(Self { stored, field: self.field.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stored.fmt_sql(f)
    }
}

/// Whether some struct inside a map has more fields in the table than in the file.
fn lacks_in_maps(table: &DataType, file: &DataType) -> bool {
    match (table, file) {
        (DataType::Struct(fields), DataType::Struct(stored)) => any_of_both(fields, stored, lacks_in_maps),
        (DataType::List(element), DataType::List(stored)) => {
            lacks_in_maps(element.data_type(), stored.data_type())
        }
        (DataType::Map(entries, _), DataType::Map(stored, _)) => {
            lacks(entries.data_type(), stored.data_type())
        }
        _ => false,
    }
}

/// Whether some struct has more fields in the table than in the file.
fn lacks(table: &DataType, file: &DataType) -> bool {
    match (table, file) {
        (DataType::Struct(fields), DataType::Struct(stored)) => {
            let is_missing = |field: &FieldRef| stored.find(field.name()).is_none();
            fields.iter().any(is_missing) || any_of_both(fields, stored, lacks)
        }
        (DataType::List(element), DataType::List(stored))
        | (DataType::Map(element, _), DataType::Map(stored, _)) => {
            lacks(element.data_type(), stored.data_type())
        }
        _ => false,
    }
}

/// Whether `holds` of the types of any field that both have.
fn any_of_both(fields: &Fields, stored: &Fields, holds: fn(&DataType, &DataType) -> bool) -> bool {
    fields.iter().any(|field| {
        stored.find(field.name()).is_some_and(|(_, stored)| holds(field.data_type(), stored.data_type()))
    })
}
