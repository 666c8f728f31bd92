"""Where text comes from and what it is like: files of any encoding, packed files, tables, the hub, the default corpus.

source       what every kind of text is handed on as
shakespeare  the default corpus
hub          data sets of the Hugging Face hub
files        which files a path, folder or glob stands for, and what each of them is
packed       .gz, .zip, .zst, .xz and .bz2, unpacked as a stream
encodings    bytes to text, and what a text that isn't UTF-8 is likely to be
tables       JSON lines, JSON, CSV and parquet: the text of one column
reading      all of these put together: files to pieces of text
characters   whether they have an order, and whether a text's end is like its beginning
overlap      how much of the validation split occurs in training, and of training in itself
"""
