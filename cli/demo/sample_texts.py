"""Texts to embed: opening and well-known lines from books that are long in the public domain."""

from __future__ import annotations

SENTENCES: tuple[str, ...] = (
    # Lewis Carroll, Alice's Adventures in Wonderland (1865)
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.",
    "Down, down, down; would the fall never come to an end?",
    "The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down.",
    "Begin at the beginning, the King said gravely, and go on till you come to the end: then stop.",
    "Curiouser and curiouser, cried Alice; she was so much surprised that she quite forgot how to speak good English.",
    # Jane Austen, Pride and Prejudice (1813); Emma (1815)
    (
        "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want of "
        "a wife."
    ),
    "Vanity and pride are different things, though the words are often used synonymously.",
    "A lady's imagination is very rapid; it jumps from admiration to love, from love to matrimony in a moment.",
    (
        "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite "
        "some of the best blessings of existence."
    ),
    # Herman Melville, Moby-Dick (1851)
    "Call me Ishmael.",
    (
        "Some years ago, never mind how long precisely, having little or no money in my purse, I thought I would sail "
        "about a little and see the watery part of the world."
    ),
    "Whenever it is a damp, drizzly November in my soul, I account it high time to get to sea as soon as I can.",
    "Better sleep with a sober cannibal than a drunken Christian.",
    # Charles Dickens, A Tale of Two Cities (1859); A Christmas Carol (1843); Great Expectations (1861)
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    (
        "It was the season of Light, it was the season of Darkness, it was the spring of hope, it was the winter of "
        "despair."
    ),
    "Marley was dead, to begin with; there is no doubt whatever about that.",
    "Old Marley was as dead as a door-nail.",
    (
        "My father's family name being Pirrip, and my Christian name Philip, my infant tongue could make of both names "
        "nothing longer or more explicit than Pip."
    ),
    # Mary Shelley, Frankenstein (1818)
    (
        "You will rejoice to hear that no disaster has accompanied the commencement of an enterprise which you have "
        "regarded with such evil forebodings."
    ),
    "It was on a dreary night of November that I beheld the accomplishment of my toils.",
    "The rain pattered dismally against the panes, and my candle was nearly burnt out.",
    # Bram Stoker, Dracula (1897)
    "Left Munich at eight in the evening, on the first of May, arriving at Vienna early next morning.",
    "Listen to them, the children of the night; what music they make!",
    # Arthur Conan Doyle, The Adventures of Sherlock Holmes (1892); The Sign of the Four (1890)
    "To Sherlock Holmes she is always the woman.",
    "It is a capital mistake to theorize before one has data.",
    "You see, but you do not observe; the distinction is clear.",
    "When you have eliminated the impossible, whatever remains, however improbable, must be the truth.",
    # Mark Twain, Adventures of Huckleberry Finn (1884); The Adventures of Tom Sawyer (1876)
    (
        "You don't know about me without you have read a book by the name of The Adventures of Tom Sawyer, but that "
        "ain't no matter."
    ),
    "Saturday morning was come, and all the summer world was bright and fresh, and brimming with life.",
    # H. G. Wells, The Time Machine (1895); The War of the Worlds (1898)
    "The Time Traveller, for so it will be convenient to speak of him, was expounding a recondite matter to us.",
    (
        "There is no difference between Time and any of the three dimensions of Space except that our consciousness "
        "moves along it."
    ),
    (
        "No one would have believed in the last years of the nineteenth century that this world was being watched "
        "keenly and closely by intelligences greater than man's."
    ),
    # Robert Louis Stevenson, Treasure Island (1883); Dr Jekyll and Mr Hyde (1886)
    (
        "I remember him as if it were yesterday, as he came plodding to the inn door, his sea-chest following behind "
        "him in a hand-barrow."
    ),
    "Fifteen men on the dead man's chest, yo-ho-ho, and a bottle of rum!",
    "Mr Utterson the lawyer was a man of a rugged countenance that was never lighted by a smile.",
    # Charlotte and Emily Bronte (1847)
    "There was no possibility of taking a walk that day.",
    "I have just returned from a visit to my landlord, the solitary neighbour that I shall be troubled with.",
    # Oscar Wilde, The Picture of Dorian Gray (1890)
    "The studio was filled with the rich odour of roses.",
    "There is only one thing in the world worse than being talked about, and that is not being talked about.",
    # Jules Verne, Around the World in Eighty Days (translated 1873)
    (
        "Phileas Fogg was one of the most noticeable members of the Reform Club, though he seemed always to avoid "
        "attracting attention."
    ),
    # Kenneth Grahame, The Wind in the Willows (1908)
    "The Mole had been working very hard all the morning, spring-cleaning his little home.",
    "There is nothing, absolutely nothing, half so much worth doing as simply messing about in boats.",
    # Edgar Allan Poe, The Raven (1845)
    (
        "Once upon a midnight dreary, while I pondered, weak and weary, over many a quaint and curious volume of "
        "forgotten lore."
    ),
    # Charles Darwin, On the Origin of Species (1859)
    (
        "There is grandeur in this view of life, with its several powers, having been originally breathed into a few "
        "forms or into one."
    ),
    # Henry David Thoreau, Walden (1854)
    "I went to the woods because I wished to live deliberately, to front only the essential facts of life.",
    "The mass of men lead lives of quiet desperation.",
)
