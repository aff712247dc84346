//! What a new cluster starts with: roles, bindings, namespaces, priority classes.
