//! Token, subject access and self subject reviews.
