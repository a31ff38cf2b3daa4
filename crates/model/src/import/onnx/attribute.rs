//! Attributes of a node, by name.

use super::{
    constant::Constant,
    lower::Stop,
    proto::{Attribute, Tensor},
};

/// The attributes of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(&'a [Attribute]);

impl<'a> Attributes<'a> {
    pub(crate) const fn new(attributes: &'a [Attribute]) -> Self {
        Self(attributes)
    }

    /// Refuses an attribute that is not among `known` or stands twice: it would change what the node computes.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Stop> {
        for (index, attribute) in self.0.iter().enumerate() {
            let name = attribute.name.as_str();
            if !known.contains(&name) {
                return Err(format!("its attribute `{name}` is not supported").into());
            }
            if self.0[..index].iter().any(|other| other.name == name) {
                return Err(format!("its attribute `{name}` stands twice").into());
            }
        }
        Ok(())
    }

    /// Bits of an f32.
    pub(crate) fn float(&self, name: &str) -> Option<u32> {
        self.get(name).map(|attribute| attribute.float)
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.get(name).map(|attribute| attribute.int)
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.get(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(crate) fn string(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|attribute| attribute.string.as_slice())
    }

    /// What a `Constant` node holds.
    ///
    /// # Errors
    ///
    /// When it holds text, a sparse tensor or a list of floats, or a tensor that [`Constant::read`] refuses.
    pub(crate) fn constant(&self) -> Result<Constant, Stop> {
        let [attribute] = self.0 else { return Err("it has not exactly one value".into()) };
        match attribute.name.as_str() {
            "value" => {
                let tensor: &Tensor =
                    attribute.tensor.as_ref().ok_or("its value is not a tensor")?;
                Constant::read(tensor).map_err(Stop::Error)
            }
            "value_float" => Ok(Constant::scalar(attribute.float)),
            "value_int" => Ok(Constant::Ints(vec![attribute.int])),
            "value_ints" => Ok(Constant::Ints(attribute.ints.clone())),
            other => Err(format!("its `{other}` is not supported").into()),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Attribute> {
        self.0.iter().find(|attribute| attribute.name == name)
    }
}
