//! `docs/errors.md` is the table that the program answers by.

use hyperion_rpc::status::table;

#[test]
fn the_page_holds_the_table() {
    let page = include_str!("../../../docs/errors.md");
    assert!(page.contains(&table()), "docs/errors.md: put this table there\n\n{}", table());
}
