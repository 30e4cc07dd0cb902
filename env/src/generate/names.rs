//! Names of people and companies: short, ASCII and from many places. First names and surnames are
//! paired at random, so nobody in particular is meant.

/// Domain of every address of the company; `.example` is reserved and belongs to nobody.
pub(super) const COMPANY_DOMAIN: &str = "fernhill.example";

#[rustfmt::skip] // one word a line would hide the list
pub(super) const FIRST_NAMES: [&str; 100] = [
    "Adele", "Agnes", "Alba", "Alistair", "Amara", "Anouk", "Arjun", "Astrid", "Baxter", "Beatrix",
    "Benoit", "Bianca", "Boris", "Brigid", "Caleb", "Camille", "Casper", "Celeste", "Cosmo",
    "Cyrus", "Dalia", "Damon", "Delphine", "Desmond", "Dina", "Edgar", "Elodie", "Emeka", "Enzo",
    "Esther", "Fabio", "Farah", "Felix", "Fiona", "Freya", "Gareth", "Gemma", "Gideon", "Greta",
    "Gustav", "Hamid", "Hanna", "Hector", "Hugo", "Ibrahim", "Imogen", "Ingrid", "Isaac", "Ivy",
    "Jasper", "Jelena", "Joaquin", "Jolene", "Kaito", "Katya", "Keiko", "Kwame", "Lars", "Leonie",
    "Lorenzo", "Ludwig", "Mabel", "Magnus", "Marisol", "Matteo", "Mireille", "Moses", "Nadim",
    "Naomi", "Nikolai", "Noelle", "Octavia", "Odin", "Ottilie", "Pablo", "Petra", "Phoebe",
    "Quentin", "Rafael", "Ramona", "Reuben", "Rosalind", "Rufus", "Sabine", "Sanjay", "Selma",
    "Silvio", "Stella", "Tariq", "Tessa", "Thaddeus", "Ulrich", "Umeko", "Vera", "Viktor",
    "Wanda", "Xavier", "Yasmin", "Yusuf", "Zelda",
];

#[rustfmt::skip] // one word a line would hide the list
pub(super) const SURNAMES: [&str; 100] = [
    "Abbott", "Adeyemi", "Almeida", "Anders", "Arroyo", "Baines", "Balogun", "Barros", "Becker",
    "Bellamy", "Bishop", "Blanc", "Boswell", "Bright", "Burke", "Calloway", "Cardoso", "Castle",
    "Chandra", "Cortez", "Crane", "Dalton", "Danso", "Dekker", "Delgado", "Dhillon", "Donovan",
    "Draper", "Duarte", "Eklund", "Emery", "Eriksen", "Falcon", "Farrow", "Ferrer", "Finch",
    "Forsyth", "Fuentes", "Gallo", "Garner", "Gomes", "Granger", "Gupta", "Haddad", "Hale",
    "Hansen", "Hayashi", "Holm", "Horvat", "Ibarra", "Ikeda", "Jansen", "Jarvis", "Joshi",
    "Kaplan", "Keller", "Khalil", "Kimura", "Kovacs", "Kruger", "Lambert", "Larkin", "Lindqvist",
    "Lowell", "Madani", "Marsh", "Mbeki", "Mercer", "Molina", "Morrow", "Nakano", "Navarro",
    "Novak", "Nyberg", "Oakley", "Obando", "Okafor", "Osman", "Palmer", "Parrish", "Pereira",
    "Pfeiffer", "Quigley", "Rahman", "Ramsey", "Reyes", "Rinaldi", "Rowan", "Salazar", "Sandoval",
    "Sato", "Shaw", "Sorensen", "Tanner", "Thorne", "Ueda", "Vargas", "Weaver", "Winslow",
    "Yilmaz",
];

/// Companies that customers work for, as they stand in their addresses (without a top-level domain).
#[rustfmt::skip] // one word a line would hide the list
pub(super) const COMPANIES: [&str; 60] = [
    "amberworks", "arcline", "ashgrove", "bluewick", "boltcraft", "brightmill", "cedarpoint",
    "clearfjord", "cloverfin", "copperleaf", "corvane", "crestline", "dawnpost", "deltaform",
    "driftwood", "eastwharf", "elmstone", "emberkit", "everbay", "fableco", "fjordline",
    "flintrow", "foxglade", "glasswing", "goldfern", "graniteco", "greyheron", "hazelwood",
    "highmoor", "ironbark", "ivorygate", "jadepeak", "juniperco", "kestrel", "lakeview",
    "lanternco", "lowtide", "maplerun", "marbleco", "meadowlark", "mistvale", "northpier",
    "oakhollow", "oldharbor", "opalbay", "pinecrest", "quarryco", "redcliff", "riverton",
    "saltmarsh", "sandpiper", "silverbirch", "snowfield", "stonebrook", "sunmeadow", "tallgrass",
    "thornbury", "tidewater", "westgale", "willowby",
];
