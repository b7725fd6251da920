//! Steps written as VRL expressions
