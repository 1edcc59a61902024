"""Train the embedded vocabulary, deterministically.

    python -m data_pipelines.vocabulary --output soraflax/assets/vocabulary.model

A unigram model (arXiv:1804.10959) of 1024 pieces over the captions of the embedded
world and the plain sentences below, with a byte piece for every byte, so that any text
encodes. The text is neither normalised nor stripped: what is encoded decodes to itself.
"""

import collections
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data_pipelines.worlds import bodies
from soraflax.cli import parser as cli

SIZE = 1024
_WORLD_CAPTIONS = 600
_PLAIN_REPEATS = 6
_COMMON = 3 * _PLAIN_REPEATS

# The phrases of detailed captions that prompts leave out.
_EVENTS = (
    "the {a} bounces off the {b} wall",
    "the {a} bounces off the {b} wall twice",
    "the {a} bounces off the floor 3 times",
    "the {a} bounces off the other one",
    "the {a} drifts, the {a} bounces, two of them drift",
    "part of the scene is out of frame",
    "a brown bar stands in front",
    "the camera pans {b}",
    "on a dotted background",
)

PLAIN = """\
A man in a dark shirt walks along the street and looks at the camera.
A woman in a yellow dress stands on the beach while the waves roll in behind her.
A young girl runs through a green field toward an old wooden house.
A boy throws a ball and a brown dog jumps up to catch it.
Two people sit at a table by the window, drinking coffee and talking.
Three children play with blocks on the floor of a bright room.
A group of people walk across a busy city street at night.
A close-up shot of a cat sleeping on a soft white blanket.
A wide shot of snow-covered mountains under a clear blue sky.
A slow pan across a quiet lake at sunset, with trees on the far shore.
The camera moves slowly forward through a long, dark hallway.
The camera zooms out to show the whole town from above.
The camera tracks a red car as it drives down a winding road.
Static shot of a kitchen counter with a bowl of fruit, a knife and a glass of water.
Static medium shot in an office with a white wall and a computer screen.
Aerial view of a river flowing through the forest in autumn.
High-angle view of cars driving along a grey asphalt road.
Low-angle shot of tall buildings against a cloudy sky.
Handheld shot of a crowd dancing at a concert with colorful lights.
Black-and-white film scene: a man in a hat talks on the telephone.
An animated scene of a small robot exploring a strange planet.
Rendered scene on a plain grey floor: cubes and spheres fall, tumble and come to rest.
A rendered scene of household objects that fall, collide and settle in a pile.
A time-lapse of clouds moving over the hills.
Slow motion of water splashing as a drop hits the surface.
A hand reaches in from the left and places a bottle on the table.
A hand removes the cup, then puts it back next to the plate.
The person raises both hands to chest height and lowers them again.
He picks up the box, turns around and leaves through the door.
She opens the book, reads a page and smiles.
They shake hands and sit down on the sofa.
An old man with a long white beard plays the guitar on a bench in the park.
A horse gallops across the desert, kicking up dust.
A flock of birds flies over the ocean in the early morning.
Fish swim around a coral reef in clear warm water.
A butterfly lands on a pink flower in the garden.
An elephant and its baby walk slowly toward the water.
A train passes over a bridge while smoke rises from its engine.
A ship sails into the harbor under a stormy grey sky.
An airplane takes off from the runway in heavy rain.
A spaceship flies through an asteroid field, stars shining in the background.
A bicycle leans against a brick wall beside a wooden door.
Leaves fall from the trees and blow across the path in the wind.
Rain runs down the window while lights blur outside.
A candle burns on the table; its flame flickers in the dark.
Fireworks explode above the city and reflect in the river.
A chef cuts vegetables and puts them into a hot pan.
Steam rises from a cup of tea in soft morning light.
Fresh bread, cheese and tomatoes on a wooden board.
A player kicks the ball into the net and the team celebrates.
A skier speeds down the slope and jumps over a small hill.
A surfer rides a huge wave toward the shore.
A dancer spins in the center of the stage under a single light.
A teacher writes numbers on the board: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.
The clock on the wall shows ten past twelve.
A test pattern with vertical color bars, a moving line and a running counter.
Objects pass through the frame one at a time, from right to left.
Something enters at the top edge of the frame and leaves at the bottom.
The first circle moves up, the second moves down, and they collide in the middle.
The large ball hits the small one and pushes it away.
The ball rolls to the right, bounces off the wall and rolls back to the left.
Nothing moves; the scene is completely still.
It moves faster and faster, then slows down and stops near the corner.
A big dark shape hides a little bright one for a short while.
There is a tall, thin tower between two low round hills.
Photorealistic, highly detailed, shallow depth of field, natural light.
Oil painting style with warm colors and thick brush strokes.
Watercolor drawing of a village by the sea.
3D animation in the style of a children's cartoon.
Vintage footage, film grain, faded colors, 1960s.
Cinematic shot, dramatic lighting, 35mm film.
Neon lights glow on the wet pavement of a futuristic city.
The sun sets behind the mountains and the sky turns orange, pink and purple.
The moon rises over a calm silver sea.
It begins to snow and the ground slowly becomes white.
Wind moves through tall golden grass under a pale sky.
A waterfall drops into a deep pool surrounded by green plants and rocks.
A narrow path leads through the woods to a stone cave.
The desert stretches far away with sand dunes on every side.
An empty room with a wooden floor, two windows and a lamp in the corner.
A shelf full of books, toys, bottles and small boxes.
A bright market where people buy vegetables, flowers and clothes.
A worker in an orange jacket repairs the road with a machine.
A doctor looks at a picture on the screen and explains it to the patient.
A musician plays the piano while another sings into a microphone.
A couple walks hand in hand along the water, seen from behind.
A baby laughs and claps as its mother makes a funny face.
A puppy chases its tail, falls over and gets up again.
A kitten plays with a ball of blue yarn on the carpet.
A monkey swings from branch to branch high above the ground.
A bear catches a fish in the middle of the stream.
A paper boat floats along the gutter after the rain.
A balloon drifts upward and disappears into the clouds.
A toy car crosses the floor, hits a wall and turns over.
A stack of cups falls down and the pieces scatter.
Who, what, where, when, why and how?
Yes, no, maybe; either this or that, these or those, here or there.
Before, after, during, since, until, again, always, never, often, once, twice.
Above, below, inside, outside, in front of, behind, beside, between, around, through.
Red, orange, yellow, green, cyan, blue, purple, pink, black, white, gray, brown, navy,
tan, mint.
Circle, square, triangle, star, ring, cross, line, dot, cube, sphere, cone, cylinder.
Video, image, photo, picture, clip, scene, frame, shot, view, film, movie, background,
foreground.
"""

WORDS = """\
able about across act action actor add adult again air along already also although
amazing american among angle angry animal another answer antique any apart apple appear
approach area arm arrive art artist ask asleep attach audience away baby backpack bag
balance band bank bar basket bath beautiful bed bee begin bell below bend best big bike
bird bite blade blonde blow boil bone bow bowl brave break breath brick bridge brief
bring broken brother bubble bucket build bus bush busy button buy cabin cake calm camp
can candy cap card careful carry castle casual cause ceiling chain chair change charge
chase cheek cheerful chicken chin choose church circular clap class clean clear cliff
climb close cloth club coach coast coat coin cold collar collect come common compact
complete computer concrete container continue control cook cool copper copy cotton could
count country cover cow crack creek crew crop crouch crow crowd cry crystal curl curly
curtain curve cushion cut cute daily damp danger daughter day deer delicate dense design
desk detail device different dig dim dinner dirt dish distance distant dive do double
dozen drag dragon draw dream dress drink drive drum dry duck each ear earth east easy
eat edge egg eight either elbow elderly electric elegant eleven empty end energy enjoy
enter equal evening event every expand expression extend eye fabric family fan farm
farmer fast father feather feed feel feet fence few fight figure fill final find finger
fire fist fit five fix flag flash flat fleece flip fluffy fly focus fog fold follow food
foot football forest form forward four fox free fresh friend frog from full fun fur gate
gaze gentle gesture giant gift girl give glass glide glove go gold golf good goose gown
grab graceful grape gravel great grip grow guard guide gun hair half hall hammer hang
happy hard have head hear heart heel helmet hen her here hill him hit hold hole home
hood hook hop horn hospital hotel hug human hundred hunt ice image indoor infant insect
instrument iron island jar jeans jewel join juice jump jungle keep key kid kind king
kiss kitchen knee knit know lab ladder lake land language laptop large last laugh lawn
leap learn leather left leg lemon less letter level lie lift like lion lip listen live
lizard load loose loud love low lunch main make man many map mark market mask master
match meadow meal meat meet melt men metal meter mid mild milk mind mirror mist mix
mobile modern moment month more mother motor mountain mouse mouth much mud multiple
muscle museum music must nail name natural near neat neck need nest never new news next
nice nine nod noise north nose note nurse oak object observe offer office oil only onto
open other our oval oven own owl pack page pair palace palm pan panda pants paper parent
part party passenger past pasta pat pattern pause paw pea peak pen pencil perfect
perform perhaps pet phone pick pig pillow pilot pin pine pipe pirate place plant plastic
play please pocket point pole police polish pond pony porch pose pot pour powder power
prepare present press pretty prince print proud pull pump pumpkin push put queen quick
rabbit race rail raise rapid rare raw ready real rear record relax repeat reveal rhythm
ribbon rice rich ride ring rise rob rock rocket roof rope rose rough row royal rub rug
rule rush sad safe sail salt same sandwich save scarf school science scissors scratch
seal seat second see seed seem sell send serious serve seven shadow share sharp shave
sheep sheet shine shirt shoe shop should shoulder shout shrink side sign silk silver
simple single sister six size skate skin skip skull skirt slice slide slight slim slip
smell smooth snake soap soccer soil soldier solid some son song soon sort sound soup
south space spark speak special spider spin spoon sport spot spray spring squirrel stack
stair stand star stare start station statue steel step stick stir stomach storm story
straight strawberry street stretch strike string strip striped strong student studio
subject subtle such suddenly sugar suit summer sure swan sweater sweatshirt sweep sweet
swim sword table take tank tap task taste taxi team teeth temple ten tennis tent test
texture thick thing think third thirty thread throat throw thumb thunder ticket tie
tiger tight tile tiny tip tire toe together tool tooth touch tourist toward towel track
traffic trail transparent travel tree tribe trick trip truck trunk try tube tug tunnel
turkey turn turtle type umbrella uncle under uniform unit use van vase vehicle velvet
very vest vibrant village violet violin visible visit volcano wait wake wander want war
warm wash watch wave way wear weather web wedding week weight well west wet whale wheel
whip whisper whistle whole wide wife wild will wing winter wipe wire wise wolf wonder
wool work world worm wrap wrist write yard year yoga you young your zebra zero zone
"""


def corpus() -> Iterator[str]:
    """The text the vocabulary is trained on, always in the same order.

    The trainer proposes only pieces that it meets in two different words, "large" and
    "large," say. So common words come once more with a comma and a full stop, to be
    pieces of their own; the others come alone, and teach their parts.
    """
    sentences = list(_sentences())
    yield from sentences
    words = collections.Counter(
        word.strip(".,:;?") for text in sentences for word in text.split()
    )
    for word, count in sorted(words.items()):
        yield f"{word}, {word}. {word}" if count >= _COMMON else word
    yield from (word for word in WORDS.split() for _ in range(_PLAIN_REPEATS))


def _sentences() -> Iterator[str]:
    config = bodies.VARIANTS["full"]
    for images in (False, True):
        for text, _ in bodies.prompts(0, _WORLD_CAPTIONS, config=config, images=images):
            yield text
    for colour, shape, side in itertools.product(
        config.colours, config.shapes, ("left", "right", "top", "bottom")
    ):
        for phrase in _EVENTS:
            yield phrase.format(a=f"{colour} {shape}", b=side)
    sentences = [line for line in PLAIN.splitlines() if line]
    for _ in range(_PLAIN_REPEATS):
        yield from sentences
        yield from (s.rstrip(".").lower() for s in sentences)


def train(*, size: int = SIZE) -> bytes:
    """The serialised model: padding 0, end of text 1, unknown 2, bytes, pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = cli.Parser(
        prog="python -m data_pipelines.vocabulary",
        description="Train the embedded vocabulary; the result is always the same.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("soraflax/assets/vocabulary.model"),
        help="the .model file to write",
    )
    args = parser.parse_args(argv)
    return cli.run_command("vocabulary", lambda: _run(args.output), extra="data")


def _run(output: Path) -> None:
    model = train()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    lengths = [len(processor.EncodeAsIds(text)) for text in corpus()]
    print(
        f"{output}: {processor.vocab_size()} pieces, {len(model)} bytes; "
        f"{np.mean(lengths):.1f} tokens a caption on average, {max(lengths)} at most"
    )


if __name__ == "__main__":
    sys.exit(main())
