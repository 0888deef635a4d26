//! A dialect, which ends the parser before it has tried too much.
//!
//! Where a word such as `CAST` or `NOT` could also be a name, the parser tries one after the other, and both anew within each of
//! them: twenty `CAST(` in one another and a mistake at the end take minutes, and thirty take days, in one call that nothing
//! can interrupt. The parser asks its dialect about every expression that it begins, and so the dialect can count them. A
//! text that can be parsed begins few more expressions than it has tokens.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// Expressions that may be begun for each token, and beside these.
const TRIES_PER_TOKEN: usize = 4;
const TRIES_MIN: usize = 50_000;

/// A dialect for one text: the generic one or PostgreSQL's, whose answers are passed on.
#[derive(Debug)]
pub(crate) struct BoundedDialect<D = GenericDialect> {
    dialect: D,
    tries_left: AtomicUsize,
}

impl BoundedDialect {
    /// The generic one, for a text of so many tokens.
    pub(in crate::query) fn new(tokens: usize) -> Self {
        Self::of(GenericDialect {}, tokens)
    }
}

impl<D> BoundedDialect<D> {
    /// For a text of so many tokens.
    pub(crate) fn of(dialect: D, tokens: usize) -> Self {
        let tries = tokens.saturating_mul(TRIES_PER_TOKEN).saturating_add(TRIES_MIN);
        Self { dialect, tries_left: AtomicUsize::new(tries) }
    }

    /// Whether the parser was ended.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.tries_left.load(Ordering::Relaxed) == 0
    }
}

/// Answers as the dialect does. Each method that the generic dialect or PostgreSQL's has of its own must be here.
macro_rules! passed_on {
    ($($method:ident,)*) => {
        $(fn $method(&self) -> bool {
            self.dialect.$method()
        })*
    };
}

impl<D: Dialect> Dialect for BoundedDialect<D> {
    fn dialect(&self) -> std::any::TypeId {
        self.dialect.dialect()
    }

    fn parse_prefix(&self, _parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let less = |left: usize| left.checked_sub(1);
        match self.tries_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => None,
            // The one error after which the parser tries nothing else.
            Err(_) => Some(Err(ParserError::RecursionLimitExceeded)),
        }
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        self.dialect.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.dialect.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.dialect.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.dialect.is_identifier_part(ch)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        self.dialect.is_custom_operator_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        self.dialect.is_reserved_for_identifier(keyword)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        self.dialect.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        self.dialect.prec_value(precedence)
    }

    passed_on! {
        supports_unicode_string_literal,
        supports_partition_by_after_order_by,
        supports_array_join_syntax,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_connect_by,
        supports_match_recognize,
        supports_pipe_operator,
        supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg,
        supports_dictionary_syntax,
        supports_window_clause_named_window_reference,
        supports_parenthesized_set_variables,
        supports_select_wildcard_except,
        support_map_literal_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_extract_comma_syntax,
        supports_create_view_comment_syntax,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_limit_comma,
        supports_update_order_by,
        supports_from_first_select,
        supports_projection_trailing_commas,
        supports_asc_desc_in_column_definition,
        supports_try_convert,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_assignment_operator,
        supports_struct_literal,
        supports_empty_projections,
        supports_nested_comments,
        supports_multiline_comment_hints,
        supports_user_host_grantee,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_match_against,
        supports_set_names,
        supports_comma_separated_set_assignments,
        supports_filter_during_aggregation,
        supports_select_wildcard_exclude,
        supports_data_type_signed_suffix,
        supports_interval_options,
        supports_quote_delimited_string,
        supports_select_wildcard_replace,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_optimize_table,
        supports_install,
        supports_detach,
        supports_prewhere,
        supports_with_fill,
        supports_limit_by,
        supports_interpolate,
        supports_settings,
        supports_select_format,
        supports_comment_optimizer_hint,
        supports_constraint_keyword_without_name,
        supports_key_column_option,
        supports_comma_separated_trim,
        supports_cte_without_as,
        supports_select_item_multi_column_alias,
        supports_xml_expressions,
        supports_listen_notify,
        supports_factorial_operator,
        supports_named_fn_args_with_colon_operator,
        supports_named_fn_args_with_expr_name,
        supports_numeric_literal_underscores,
        supports_geometric_types,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
    }
}
