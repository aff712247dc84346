//! Expressions as trees. Macros (`has`, `all`, `map`, ...) are nodes of their own.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Binary::Or => "||",
            Binary::And => "&&",
            Binary::Equal => "==",
            Binary::NotEqual => "!=",
            Binary::Less => "<",
            Binary::LessEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterEqual => ">=",
            Binary::In => "@in",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Remainder => "%",
        }
    }
}

/// What a macro over a list or map does with its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    /// `transformList`, `transformMap`: the body gives the new values.
    TransformList,
    TransformMap,
}

/// With the place of its token in the source, for those who are told what is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At<T> {
    value: T,
    pub(super) at: usize,
}

impl<T> At<T> {
    pub(super) fn new(value: T, at: usize) -> At<T> {
        At { value, at }
    }
}

impl<T> std::ops::Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Literal(Literal),
    Ident(At<String>),
    /// `on.field`; `on.?field` if optional.
    Select {
        on: Box<Expr>,
        field: At<String>,
        optional: bool,
    },
    /// `has(on.field)`
    Has {
        on: Box<Expr>,
        field: At<String>,
    },
    Index {
        on: Box<Expr>,
        index: At<Box<Expr>>,
        optional: bool,
    },
    Call {
        on: Option<Box<Expr>>,
        name: At<String>,
        args: Vec<Expr>,
    },
    Not(At<Box<Expr>>),
    Negate(At<Box<Expr>>),
    Binary(At<Binary>, Box<Expr>, Box<Expr>),
    /// At the question mark.
    Choose(At<Box<Expr>>, Box<Expr>, Box<Expr>),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    /// `Object.spec{replicas: 1}`; a field `?f` is left out where its value is none.
    Make {
        ty: At<String>,
        fields: Vec<MadeField>,
    },
    /// A macro over `on`: one variable is the item (or the key of a map); two are the index (or key) and the value.
    Fold {
        fold: At<Fold>,
        on: Box<Expr>,
        names: Vec<String>,
        filter: Option<Box<Expr>>,
        body: Box<Expr>,
    },
    /// `cel.bind(name, value, body)`
    Bind {
        name: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    /// `on.optMap(name, body)`; `flat`: the body is optional itself.
    OptMap {
        on: Box<Expr>,
        name: String,
        body: Box<Expr>,
        flat: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct MadeField {
    pub(super) name: String,
    pub(super) optional: bool,
    pub(super) value: Expr,
}

impl Expr {
    /// This node and all below it.
    pub(super) fn visit(&self, see: &mut dyn FnMut(&Expr)) {
        see(self);
        match self {
            Expr::Literal(_) | Expr::Ident(_) => {}
            Expr::Select { on, .. } | Expr::Has { on, .. } => on.visit(see),
            Expr::Not(inner) | Expr::Negate(inner) => inner.visit(see),
            Expr::Index { on, index, .. } => [on, &**index].into_iter().for_each(|expr| expr.visit(see)),
            Expr::Binary(_, one, two) => [one, two].into_iter().for_each(|expr| expr.visit(see)),
            Expr::Choose(condition, one, two) => [&**condition, one, two].into_iter().for_each(|expr| expr.visit(see)),
            Expr::Call { on, args, .. } => {
                if let Some(on) = on {
                    on.visit(see);
                }
                args.iter().for_each(|arg| arg.visit(see));
            }
            Expr::List(items) => items.iter().for_each(|item| item.visit(see)),
            Expr::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.visit(see);
                value.visit(see);
            }),
            Expr::Make { fields, .. } => fields.iter().for_each(|field| field.value.visit(see)),
            Expr::Fold { on, filter, body, .. } => {
                on.visit(see);
                if let Some(filter) = filter {
                    filter.visit(see);
                }
                body.visit(see);
            }
            Expr::OptMap { on, body, .. } | Expr::Bind { value: on, body, .. } => {
                on.visit(see);
                body.visit(see);
            }
        }
    }
}
