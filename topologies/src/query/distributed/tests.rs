//! What goes to workers, and what workers take.
