"""Ground-truth stores at a URL that fsspec knows: pushed by any number of machines, pulled as one store.

    URL/parts/SHA256              a file of a store, or 64 MiB of one, under the sha256 of its bytes
    URL/manifest-SHA256.json      what one push holds: the store's key, and of each file its parts (`Manifest`)

Nothing at the URL is ever written over by other bytes: a part and a manifest are called what they hold. A push that is
interrupted leaves parts that nobody refers to, and the next one finds them; its manifest comes last, so that no reader
takes half a store for a whole one. Two machines that push different shards at the same time leave a manifest each, and
a reader takes the blocks of both.
"""
