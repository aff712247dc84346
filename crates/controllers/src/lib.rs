//! The controllers and their runner.
