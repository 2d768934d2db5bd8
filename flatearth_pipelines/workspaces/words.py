"""The vocabulary of the sample workspace."""

import polars as pl

FIRST_NAMES = pl.Series(
    [
        "Ada", "Amara", "Anton", "Beatriz", "Bruno", "Chiara", "Dagmar", "Daniel", "Elif", "Emeka", "Esther", "Farid",
        "Greta", "Hana", "Hugo", "Ines", "Ivan", "Jamila", "Jonas", "Kaito", "Lena", "Liam", "Lucia", "Malik", "Marta",
        "Mei", "Milan", "Nadia", "Noor", "Olga", "Pablo", "Priya", "Quentin", "Rosa", "Samuel", "Sofia", "Tariq",
        "Ursula", "Viktor", "Wanjiru", "Yara", "Zoltan",
    ]
)  # fmt: skip

LAST_NAMES = pl.Series(
    [
        "Abbasi", "Adler", "Almeida", "Bianchi", "Castillo", "Chen", "Dubois", "Eriksen", "Fischer", "Fontaine",
        "Garcia", "Haddad", "Horvat", "Ito", "Jansen", "Kaya", "Kimani", "Kowalski", "Lindqvist", "Lopez", "Marchetti",
        "Moreau", "Mwangi", "Nakamura", "Novak", "Okafor", "Osman", "Petrov", "Quispe", "Rahman", "Romero", "Santos",
        "Schneider", "Singh", "Tanaka", "Traore", "Varga", "Weber", "Yilmaz", "Zhou",
    ]
)  # fmt: skip

COMPANY_FIRST_WORDS = pl.Series(
    [
        "Amber", "Birch", "Bright", "Cedar", "Clear", "Copper", "Coral", "Delta", "Ember", "First", "Granite", "Green",
        "Harbour", "High", "Iron", "Juniper", "Lake", "Linden", "Long", "Maple", "Meridian", "North", "Oak", "Open",
        "Orchard", "Pine", "Quiet", "River", "Silver", "South", "Stone", "Summit", "Tidal", "True", "Union", "Upper",
        "Valley", "West", "Willow", "Winter",
    ]
)  # fmt: skip

COMPANY_SECOND_WORDS = pl.Series(
    [
        "Analytics", "Architects", "Bakery", "Bicycles", "Books", "Brewing", "Builders", "Clinic", "Coffee", "Design",
        "Energy", "Farms", "Films", "Foods", "Freight", "Gardens", "Games", "Health", "Hotels", "Housing",
        "Instruments", "Kitchens", "Labs", "Learning", "Logistics", "Maps", "Media", "Mobility", "Museum", "Optics",
        "Outdoor", "Press", "Printing", "Robotics", "Schools", "Software", "Studio", "Textiles", "Theatre", "Travel",
    ]
)  # fmt: skip

TIME_ZONES = pl.Series(
    ["UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Sao_Paulo", "Africa/Nairobi", "Asia/Tokyo"]
)

BOARDS = pl.Series(
    [
        "Website", "Mobile app", "Customer support", "Hiring", "Marketing", "Roadmap", "Operations", "Office move",
        "Design system", "Billing", "Newsletter", "Sales", "Onboarding", "Bugs", "Content calendar", "Partnerships",
        "Infrastructure", "Research", "Events", "Finance",
    ]
)  # fmt: skip

COLUMNS = pl.Series(["Up next", "In progress", "In review", "Waiting for others", "Ready to ship"])

TAGS = pl.Series(
    [
        "bug", "feature", "urgent", "question", "design", "copy", "backend", "frontend", "mobile", "legal", "security",
        "customer", "quick win", "needs info", "blocked", "accessibility", "performance", "docs", "print", "launch",
    ]
)  # fmt: skip

TASKS = pl.Series(
    [
        "Fix", "Rework", "Document", "Test", "Simplify", "Review", "Speed up", "Redesign", "Translate", "Replace",
        "Measure", "Plan", "Try out", "Clean up", "Finish", "Agree on", "Present", "Write a guide to",
    ]
)  # fmt: skip

OBJECTS = pl.Series(
    [
        "the login redirect", "the invoice export", "the welcome email", "the price list", "the search results",
        "the sign-up form", "the weekly report", "the photo gallery", "the contact page", "the password reset",
        "the order confirmation", "the shipping labels", "the customer survey", "the product tour", "the team calendar",
        "the data import", "the mobile menu", "the error messages", "the refund process", "the holiday schedule",
        "the press kit", "the job advert", "the supplier contract", "the status page", "the image uploads",
        "the notification settings", "the opening hours", "the checkout", "the newsletter archive", "the budget sheet",
    ]
)  # fmt: skip

CIRCUMSTANCES = pl.Series(
    [
        "", "", "", " on Safari", " for new customers", " before the launch", " on small screens", " for the board",
        " in dark mode", " after the update", " with the new supplier", " for the Lisbon office", " on slow networks",
        " for returning visitors", " with legal", " by the end of the quarter",
    ]
)  # fmt: skip

REMARKS = pl.Series(
    [
        "I can have a look tomorrow.", "This came up again in support today.", "Done on my side, please check.",
        "Can we split this in two?", "The numbers look right to me.", "Waiting for an answer from the supplier.",
        "I think the old way was clearer.", "Here is what I found so far.", "Let us talk about it on Monday.",
        "Not reproducible for me, which version was it?", "Two customers asked for this last week.",
        "I moved the open points into a card of their own.", "Looks good!", "We agreed to leave it as it is for now.",
    ]
)  # fmt: skip

AFTERTHOUGHTS = pl.Series(
    [
        "", "", "", " Screenshots are in the shared folder.", " Shout if you disagree.", " It is not urgent.",
        " The sooner the better.", " I will write it down when it is settled.", " Thanks for the quick answer!",
    ]
)  # fmt: skip
